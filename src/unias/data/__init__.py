"""Photos and masks: what a folder holds (layouts, check), how files become pixels (decode, masks), who is held out."""
