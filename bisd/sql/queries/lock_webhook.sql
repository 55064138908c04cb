-- Locks webhook $1 until the transaction ends, and answers a text that is another one whenever any of its settings is.
select md5(row(w.id, w.url, w.description, w.enabled, w.max_in_flight, w.rate, w.ordered, w.headers, w.filter::text, w.switched_at)::text)
from bisd.require_webhook($1) w
