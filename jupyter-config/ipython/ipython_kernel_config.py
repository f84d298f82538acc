c = get_config()  # noqa: F821 - IPython puts this name there
c.InteractiveShellApp.extensions.append("h2q")
# c.InteractiveShellApp.exec_lines.append("%h2q_budget 50%")
