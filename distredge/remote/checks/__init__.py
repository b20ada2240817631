"""What is wrong on which board: facts that a script reads there, what workers answer, and what both say in words.

`facts.sh` runs on every board and prints what the system's own tools say; `tool_output` and `facts` read that;
`settings`, `surroundings` and `profiles` judge it, `workers` asks the workers themselves. Reading is pure: it is tested
on texts.
"""
