"""Making panoptic data from objects and stuff that were annotated separately."""
