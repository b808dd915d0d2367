"""Training and evaluation through PopTorch: what the apps for IPUs share, whatever they train. The same in each."""
