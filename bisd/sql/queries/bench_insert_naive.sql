-- Bench: the same as bench_insert.sql, into the table that notifies naively; answers the notification's id.
insert into bench.naive (account_id, customer_email, customer_language, customer_utc_offset, product_id, product_title,
                               variant_id, variant_title)
values ($1, 'someone@example.com', 'en-GB', 14400, 8339067207909, 'Black Tea', 44211925318693, 'Small')
returning id
