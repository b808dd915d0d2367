"""What the apps share: ImageNet layout checks, the sample data set, the build of the custom op."""
