"""What is learned: one file per architecture, nothing about files, loops or HTTP."""
