"""An audio file -> the features of one view; the store that keeps them."""
