"""Pictures are announced while each part is killed and brought back: what became of every single one."""
