"""The servers that ours is compared with, each as its own guides write a picture model; the same weights for all."""
