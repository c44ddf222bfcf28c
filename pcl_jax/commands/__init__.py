"""The commands of `pcl`: flags in, calls, text out."""
