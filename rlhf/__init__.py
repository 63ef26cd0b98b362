"""RLHF on DeepSpeed, planned with the performance model of hwopt."""
