-- Owes webhook $1 again what happened from $2 until before $3 (null: now); with $4 only what failed; $5 per second. Answers how
-- many.
select bisd.replay($1, $2, $3, $4, $5)
