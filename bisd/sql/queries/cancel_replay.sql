-- Takes back what replays have owed to webhook $1 and nobody has tried yet. Answers how many.
select bisd.cancel_replay($1)
