"""Starting and finding workers: processes of this machine, boards, and sessions on either."""
