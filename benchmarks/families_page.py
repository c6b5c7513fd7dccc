def write(records): pass
