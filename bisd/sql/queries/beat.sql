-- A daemon runs. Answers for how many seconds none did, 0 if that made no difference.
select bisd.beat()
