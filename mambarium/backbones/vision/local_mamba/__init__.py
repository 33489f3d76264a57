"""LocalMamba: LocalVim and LocalVMamba."""
