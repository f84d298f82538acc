"""Two lines for an IPython profile: load h2q in every kernel."""

c = get_config()  # noqa: F821 - IPython puts this name there
c.InteractiveShellApp.extensions.append("h2q")
# c.InteractiveShellApp.exec_lines.append("%h2q_budget 50%")
