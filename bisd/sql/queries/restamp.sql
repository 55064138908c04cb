-- After a restore: stamps rows with transaction ids of the future anew; answers how many.
select bisd.restamp()
