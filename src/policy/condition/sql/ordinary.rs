//! Ordinary queries, which the SQL condition must let pass.

use super::*;

/// What agents ask of every database. T-SQL has no truth for a value, which the last has.
const ORDINARY: [&str; 34] = [
    "select * from orders",
    "SELECT id, note FROM orders WHERE total > 10.5 AND note LIKE '%it''s%' ORDER BY id DESC",
    "select count(*), sum(total), avg(total), min(id), max(id) from orders",
    "select customer, count(*) n from orders group by customer having count(*) > 5 order by n desc",
    "select o.id, i.name from orders o join sales.items i on i.order_id = o.id",
    "select o.id from orders as o left outer join sales.items as i on i.order_id = o.id where i.id is null",
    "select a.id, b.id from orders a cross join sales.items b",
    "select id from orders where id in (1, 2, 3) or total between 5 and 10",
    "select id from orders where id in (select order_id from sales.items)",
    "select id from orders o where exists (select 1 from sales.items i where i.order_id = o.id)",
    "select id, (select max(price) from sales.items i where i.order_id = o.id) as most from orders o",
    "select t.n from (select count(*) as n from orders) t",
    "with recent as (select * from orders where id > 5) select * from recent",
    "with a as (select id from orders), b as (select id from a) select b.id from b join a on a.id = b.id",
    "select id from orders union all select order_id from sales.items",
    "select id from orders except select order_id from sales.items",
    "select case when total > 10 then 'big' when total is null then 'none' else 'small' end as size from orders",
    "select coalesce(note, '') as note, nullif(total, 0) from orders",
    "select cast(total as int), upper(note), round(total) from orders",
    "select id, row_number() over (partition by customer order by id) from orders",
    "select id, sum(total) over (order by id rows between 1 preceding and current row) from orders",
    "select distinct customer from orders -- all of them",
    "select o.* from orders o where o.note is not null and o.note <> '' and o.total >= 10",
    "select (total - 5) / 2 as half, total % 2 from orders where (total > 5 or (note = 'a' and id < 9)) and not (id = 3)",
    "select id from orders where note not like 'a%' and id not in (4, 5) and total not between 1 and 2",
    "select count(distinct customer) from orders",
    "select i.order_id, sum(i.price * i.quantity) from sales.items i inner join orders o on o.id = i.order_id group by i.order_id order by 2 desc, 1",
    "select * from (select id, rank() over (partition by customer order by total desc) as place from orders) ranked where place <= 3",
    "select a.id from orders a left join orders b on b.customer = a.customer and b.id > a.id where b.id is null",
    "select lag(total) over (order by id) as before, lead(total, 1, 0) over (order by id) as after_it from orders",
    "select id from orders where total > (select avg(total) from orders) and exists (select 1 from sales.items where order_id = id)",
    "with big as (select id from orders where total > 10) select (select count(*) from big) as n, o.id from orders o join big on big.id = o.id",
    "select 1 /* one */; select 2",
    "select -total, +1, not (total > 5 and not total < 3), total * (1 + 0.19) from orders",
];

const POSTGRES: &[&str] = &[
    "select id::text, total::numeric(10,2) from orders limit 10 offset 20",
    "select data->>'name', data->'a'->'b', data #>> '{a,b}' from orders where data @> '{\"a\": 1}'",
    "select date_trunc('month', created), extract(year from created), to_char(created, 'YYYY') from orders",
    "select * from orders where created > now() - interval '7 days'",
    "select * from orders where created >= current_date - 7 and created at time zone 'UTC' < date '2026-01-01'",
    "select \"Total\", o.\"id\" from \"orders\" o",
    "select distinct on (customer) customer, id from orders order by customer, created desc",
    "select note ilike '%a%', note ~ '^[a-z]+$', note ~* 'x' from orders",
    "select array_agg(id order by id), string_agg(note, ', ') from orders",
    "select tags[1], array[1, 2, 3], id = any (array[1, 2]) from orders",
    "select count(*) filter (where total > 5) from orders",
    "select o.id, x.n from orders o, lateral (select count(*) n from sales.items i where i.order_id = o.id) x",
    "with recursive t(n) as (select 1 union all select n + 1 from t where n < 10) select n from t",
    "insert into orders (id, note) values (1, 'a') on conflict (id) do update set note = excluded.note returning id",
    "update orders o set note = i.name from sales.items i where i.order_id = o.id",
    "delete from orders where id = 1 returning *",
    "explain select * from orders",
    "select substring(note from 1 for 3), position('a' in note), trim(both ' ' from note) from orders",
    "select row(1, 2), (1, 2) = (1, 2), $1 from orders fetch first 5 rows only",
];

const MYSQL: &[&str] = &[
    "select `id`, o.`note` from `orders` o limit 5, 10",
    "select date_format(created, '%Y-%m'), year(created) from orders",
    "select * from orders where created > date_sub(now(), interval 7 day)",
    "select json_extract(data, '$.a'), data->'$.a', data->>'$.b' from orders",
    "select group_concat(note order by id separator ', ') from orders",
    "select * from orders force index (a) where note regexp '^a'",
    "select \"it's\", 'a\\'b', 'a' 'b' from orders # all",
    "insert into orders (id, note) values (1, 'a') on duplicate key update note = 'b'",
    "update orders set note = 'a' where id = 1 limit 1",
    "select concat(note, 'x'), ifnull(total, 0), left(note, 2) from orders",
    "select id div 2, id % 2, id <=> null from orders",
    "select cast(total as signed), cast(note as char) from orders order by id limit 5 offset 2",
    "select if(total > 5, 'a', 'b'), substr(note, 1, 3), replace(note, 'a', 'b') from orders",
];

const SQLITE: &[&str] = &[
    "select strftime('%Y', created), datetime('now', '-7 days') from orders limit 5 offset 1",
    "select json_extract(data, '$.a'), data ->> '$.b' from orders",
    "select [id], `note`, \"total\" from orders where note glob 'a*'",
    "insert or replace into orders (id) values (1)",
    "select note || '-' || id from orders order by id collate nocase",
    "select * from orders where id = ?1 or id = :id",
    "select iif(total > 5, 'a', 'b'), instr(note, 'x'), substr(note, 1, 2) from orders",
    "update orders set note = 'a' where id = 1",
    "insert into orders (id, note) values (1, 'a') on conflict (id) do nothing returning id",
    "explain query plan select * from orders",
];

const MSSQL: &[&str] = &[
    "SELECT TOP 10 [id], o.[note] FROM [orders] AS o WITH (NOLOCK)",
    "SELECT TOP (5) * FROM orders ORDER BY id DESC",
    "SELECT id FROM orders ORDER BY id OFFSET 10 ROWS FETCH NEXT 5 ROWS ONLY",
    "SELECT LEN(note), ISNULL(total, 0), CONVERT(varchar(10), created), LEFT(note, 3) FROM orders",
    "SELECT * FROM orders WHERE created > DATEADD(day, -7, GETDATE())",
    "SELECT N'Grüße', note + 'x', IIF(total > 5, 1, 0) FROM orders",
    "SELECT o.id FROM orders o CROSS APPLY (SELECT TOP 1 * FROM sales.items i WHERE i.order_id = o.id) x",
    "INSERT INTO orders (id) OUTPUT inserted.id VALUES (1)",
    "UPDATE orders SET note = 'a' WHERE id = 1",
    "DELETE FROM orders WHERE id = 1",
    "SELECT customer, SUM(total) AS [sum] FROM orders GROUP BY customer",
    "INSERT INTO orders (id, note) VALUES (1, DEFAULT)",
    "MERGE INTO orders AS t USING sales.items AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET t.note = s.name;",
];

#[track_caller]
fn all_pass(database: Database, functions: &[&str], queries: &[&str]) {
    let kinds = Kind::WORDS.map(|(_, kind)| kind);
    let functions: Vec<String> = functions.iter().map(|name| (*name).to_owned()).collect();
    let sql = Sql::new(kinds.into(), Some(&["orders".to_owned(), "sales.*".to_owned()]), &functions, database).unwrap();
    let wrong: Vec<_> = queries.iter().filter(|query| sql.permits(query) != Ok(true)).map(|query| (*query, sql.permits(query))).collect();
    assert!(wrong.is_empty(), "{database:?}: {wrong:#?}");
}

#[test]
fn ordinary_queries_pass_in_every_database() {
    for database in [Database::Postgres, Database::MySql, Database::Sqlite, Database::Ansi] {
        all_pass(database, &[], &ORDINARY);
    }
    all_pass(Database::MsSql, &[], &ORDINARY[..33]);
}

#[test]
fn ordinary_queries_of_one_database_pass() {
    all_pass(Database::Postgres, &["to_char", "jsonb_array_length", "unnest"], POSTGRES);
    all_pass(Database::MySql, &["date_format", "json_extract", "curdate", "date_sub"], MYSQL);
    all_pass(Database::Sqlite, &["strftime", "json_extract", "datetime"], SQLITE);
    all_pass(Database::MsSql, &["getdate", "dateadd", "len", "try_convert"], MSSQL);
}
