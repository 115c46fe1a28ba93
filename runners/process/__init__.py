"""A runner worker as processes: the zygote, its engine, what watches and counts them."""
