"""What of its kernels an engine runs on a deployment: which ones, merged or by themselves, replayed or launched."""
