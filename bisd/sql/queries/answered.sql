-- What was answered to the order that has the name $1, sealed; and the hash of what it was.
select request, sealed from bisd.answered where name = $1
