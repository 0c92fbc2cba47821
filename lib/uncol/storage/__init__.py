"""Files that outlive a process: replaced in one step, appended to, kept within a limit."""
