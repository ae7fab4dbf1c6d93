"""COCO's JSON files and folders: from annotations to pictures with their segments."""
