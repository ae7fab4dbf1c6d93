"""The network: backbone, pyramid, heads, targets, losses and fusion."""
