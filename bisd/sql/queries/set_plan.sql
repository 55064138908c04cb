-- The account $1 is on the plan $2 from now on.
select bisd.set_plan($1, $2)
