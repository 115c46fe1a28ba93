"""The command line `modelmora`: a client of the API; `serve` starts one."""
