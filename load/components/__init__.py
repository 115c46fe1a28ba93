"""Real servers on this machine, for tests and for what is broken on purpose: started, stopped, killed, brought back."""
