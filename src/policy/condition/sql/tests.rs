//! What the SQL condition answers to attacks, by what they hide.

use super::*;

/// A condition of a database that permits reading and writing of `orders` and all of `sales`.
fn condition(database: Database, kinds: &[Kind]) -> Sql {
    let tables = ["orders".to_owned(), "sales.*".to_owned()];
    Sql::new(kinds.into(), Some(&tables), &[], database).unwrap()
}

const READS: &[Kind] = &[Kind::Select, Kind::Explain];
const ALL: &[Kind] = &[Kind::Select, Kind::Insert, Kind::Update, Kind::Delete, Kind::Merge, Kind::Explain];

fn all_are(database: Database, kinds: &[Kind], queries: &[&str], expected: &[&str]) {
    let sql = condition(database, kinds);
    let answer = |query: &str| crate::policy::condition::word(sql.permits(query));
    let told = |query: &&&str| !expected.contains(&answer(query));
    let wrong: Vec<String> = queries.iter().filter(told).map(|query| format!("{database:?} {:?}: {query}", sql.permits(query))).collect();
    assert!(wrong.is_empty(), "not {expected:?}:\n{}", wrong.join("\n"));
}

const UNCLEAR: &[&str] = &["error"];
const NOT_TRUE: &[&str] = &["error", "false"];
const TRUE: &[&str] = &["true"];

#[test]
fn attribute_notation_calls_no_function_unseen() {
    let attacks = [
        "select ('PG_VERSION'::text).pg_read_file",
        "select (x.p).pg_read_file from (select 'PG_VERSION'::text as p) x",
        "select (o.note).pg_read_file from orders o",
        "select ('/etc/passwd'::text).lo_import",
        "select (array['x'])[1].pg_read_file",
        "select ((array['x'])[1]).pg_read_file",
        "select (5::float8).pg_sleep",
        "select ('s'::regclass).nextval",
        "select orders.row_to_json from orders",
        "select sales.items.to_jsonb from sales.items",
        "select o.\"row_to_json\" from orders o",
        "select (orders).pg_column_size from orders",
        "select x.pg_read_file from concat('PG_VERSION') x",
        "select x.drop_everything from concat('all') as x",
        "select concat.query_to_xml from concat('select 1')",
        "select 1 from orders where ('a'::text).pg_read_file = 'a'",
        "select * from orders order by (note).pg_read_file",
    ];
    all_are(Database::Postgres, READS, &attacks, UNCLEAR);
    all_are(Database::Postgres, ALL, &["update orders set note = ('PG_VERSION'::text).pg_read_file returning *"], UNCLEAR);
    let ordinary = [
        "select orders.id, o.note from orders, orders o",
        "select (o.note).upper from orders o",
        "select (array[1, 2])[1], o.tags[1] from orders o",
        "select sales.items.id from sales.items",
    ];
    all_are(Database::Postgres, READS, &ordinary, TRUE);
    let calls = Sql::new(READS.into(), None, &["jsonb_each".to_owned()], Database::Postgres).unwrap();
    for query in ["select c.c, n.n from concat('a') c, concat('b') as n(n)", "select e.key, e.value from jsonb_each('{}') e"] {
        assert_eq!(calls.permits(query), Ok(true), "{query}");
    }
    assert!(calls.permits("select query_to_xml.query_to_xml from concat('a') as query_to_xml(n)").is_err());
    assert!(calls.permits("select c.lo_export, n.n from concat('a') c, concat('b') as n(n)").is_err());
}

#[test]
fn a_name_of_a_with_hides_no_table_that_is_written_to() {
    let hidden = [
        "with secrets as (select 1) delete from secrets",
        "with secrets as (select 1) insert into secrets values (1)",
        "with secrets as (select 1 a) update secrets set a = 2 returning 1",
        "with recursive secrets as (select 1) delete from secrets",
        "explain analyze with secrets as (select 1) delete from secrets",
        "select 1; with secrets as (select 1) delete from secrets",
        "with secrets as (select 1), x as (delete from secrets returning 1) select 1",
    ];
    for database in [Database::Postgres, Database::Sqlite, Database::MySql, Database::MsSql, Database::Ansi] {
        all_are(database, ALL, &hidden, NOT_TRUE);
        all_are(database, ALL, &["with recent as (select * from orders) insert into orders select * from recent"], TRUE);
    }
    let merge = "with secrets as (select 1) merge into secrets using orders on true when matched then delete";
    all_are(Database::Postgres, ALL, &[merge], NOT_TRUE);
    let read = ["with recent as (select 1 a) delete from orders where a in (select a from recent)", "delete from orders o where o.id = 1"];
    all_are(Database::Postgres, ALL, &read, TRUE);
    let joined = [
        "delete secrets from orders join orders",
        "with secrets as (select 1 a) delete secrets from secrets join orders",
        "with s as (select 1 a) update orders join s set orders.a = 1",
        "delete s from secrets as s",
    ];
    all_are(Database::MySql, ALL, &joined, NOT_TRUE);
    all_are(Database::MySql, ALL, &["delete a from orders as a", "delete orders from orders join sales.items i on i.id = orders.id"], TRUE);
    all_are(Database::MsSql, ALL, &["delete secrets from orders"], NOT_TRUE);
    all_are(Database::MsSql, ALL, &["delete o from orders o", "delete from orders where id = 1"], TRUE);
}

#[test]
fn output_into_a_table_writes_to_it() {
    let attacks = [
        "insert into orders output inserted.* into secrets values (1)",
        "delete from orders output deleted.* into secrets",
        "update orders set a = 1 output inserted.a into secrets",
        "merge orders using orders o on 1 = 1 when matched then delete output deleted.* into secrets;",
        "delete from orders output deleted.* into sales.x.y",
    ];
    all_are(Database::MsSql, ALL, &attacks, NOT_TRUE);
    let ordinary = ["delete from orders output deleted.id", "update orders set a = 1 output inserted.a into sales.log"];
    all_are(Database::MsSql, ALL, &ordinary, TRUE);
}

#[test]
fn a_literal_ends_where_every_reader_ends_it() {
    for database in [Database::Postgres, Database::MySql, Database::Sqlite, Database::MsSql, Database::Ansi] {
        let hex = [r"select x'\', (select s from secrets), '--'", r"SELECT x'\' FROM (SELECT 1 AS x) q; DELETE FROM secrets; --'"];
        all_are(database, ALL, &hex, UNCLEAR);
        all_are(database, ALL, &[r"SELECT x'\' FROM (SELECT 1 AS x) q EXEC xp_cmdshell ''id'' --'", "select x'1g'"], UNCLEAR);
        let dollars = ["SELECT $$ , (SELECT s FROM secrets), $$", "SELECT $a$ , (SELECT s FROM secrets), $a$"];
        match database {
            Database::Postgres => all_are(database, ALL, &dollars, TRUE),
            _ => all_are(database, ALL, &dollars, NOT_TRUE),
        }
        if !matches!(database, Database::MySql) {
            let backslash = [r"select N'\', (select s from secrets), '--'", r"select 'a\', (select s from secrets), '", r"select '\\'"];
            all_are(database, ALL, &backslash, NOT_TRUE);
            all_are(database, ALL, &[r"select 1 from orders where note = 'C:\temp'"], TRUE);
        }
        all_are(database, ALL, &["select 1 /* /* */ , (select s from secrets) /* */ */"], UNCLEAR);
    }
    all_are(Database::MsSql, ALL, &["select x'1f'", "SELECT HierarchyID::GetRoot()"], UNCLEAR);
    all_are(Database::Ansi, ALL, &["select 1 as ` , (select s from secrets) , `"], UNCLEAR);
    all_are(Database::MsSql, ALL, &["select id from orders where hash = 0x1F"], TRUE);
    all_are(Database::Postgres, ALL, &[r"select U&'\', (select s from secrets), '--'", "select $1$a$1$"], UNCLEAR);
    all_are(Database::Postgres, ALL, &["select x'1f'", r"select E'it\'s', e'a\\b'", "select $a$ it's $a$"], TRUE);
    all_are(Database::MySql, ALL, &[r"select 'it\'s', x'1F', b'101'"], TRUE);
}

#[test]
fn a_comment_that_some_servers_run_has_no_answer() {
    let attacks = [
        "select * from /*!99999 orders AS */ secrets",
        "select * from /*!99999orders AS*/ secrets",
        "select 1 /*M! union select s from secrets */",
        "select 1 /*M!100100 , (select s from secrets) */",
        "select 1 /*!50000 , (select s from secrets) */",
        "select /*! 1 */",
        "select 1 -- x\r, (select s from secrets)",
        "SELECT 1 -- x\rDELETE FROM orders",
        "SELECT 1 -- x\u{2028}DELETE FROM orders",
        "SELECT 1 -- x\u{85}DELETE",
    ];
    for database in [Database::Postgres, Database::MySql, Database::Sqlite, Database::MsSql, Database::Ansi] {
        all_are(database, ALL, &attacks, UNCLEAR);
        all_are(database, ALL, &["select 1 /* one! */ from orders -- all\r\n where id = 1"], TRUE);
    }
}

#[test]
fn a_statement_without_a_semicolon_is_no_alias() {
    let attacks = [
        "SELECT * FROM orders SHUTDOWN",
        "SELECT * FROM orders REVERT",
        "SELECT * FROM orders COMMIT",
        "SELECT 1 ROLLBACK",
        "SELECT * FROM orders RECONFIGURE",
        "SELECT 1 CHECKPOINT",
        "SELECT * FROM orders EXEC ('x')",
        "SELECT * FROM orders AS EXEC ('x')",
        "SELECT * FROM (SELECT 1 a) EXEC ('x')",
        "SELECT * FROM orders WAITFOR ('x')",
        "SELECT 1 WHERE 1=1 EXEC x",
        "SELECT 1 GO",
        "SELECT 1\nGO\nDELETE FROM orders",
        "SELECT 1 PRINT 'x'",
        "SELECT 1 BEGIN DELETE FROM orders END",
        "SELECT 1 a, 2 b THROW",
        "SELECT 1 USE",
        "SELECT 1 KILL",
        "SELECT 1 BREAK",
        "SELECT 1 CONTINUE",
        "SELECT 1 setuser",
        "SELECT * FROM orders LIMIT SHUTDOWN",
        "SELECT * FROM orders QUALIFY SHUTDOWN",
        "DELETE FROM orders SHUTDOWN",
        "UPDATE orders SET a = 1 FROM orders o REVERT",
        "SELECT 1 END",
        "SELECT * FROM orders SET",
    ];
    all_are(Database::MsSql, ALL, &attacks, UNCLEAR);
    let ordinary = ["SELECT [use], \"kill\" FROM orders AS [shutdown]", "SELECT LEFT(note, 2), COALESCE(a, b) FROM orders o"];
    all_are(Database::MsSql, ALL, &ordinary, TRUE);
}

/// What nests, so many times over.
fn nested(times: usize) -> Vec<(&'static str, String)> {
    let around =
        |before: &str, begin: &str, middle: &str, end: &str| format!("{before}{}{middle}{}", begin.repeat(times), end.repeat(times));
    vec![
        ("derived", around("select * from ", "((select * from ", "orders", ") x)")),
        ("subqueries", around("select ", "coalesce((select max(id) from ((select * from ", "orders", ") x)))")),
        ("joins", around("select * from ", "(orders join (select * from ", "orders", ") y on true)")),
        ("deep joins", around("select * from ", "(((orders) join ((select * from ", "orders", ") y) on true))")),
        ("exists", around("select 1 where ", "exists (select 1 from ((orders join ", "orders", " on true)))")),
        ("filters", around("select ", "case when (select count(*) filter (where a in (", "1", ")) from orders) then 1 end")),
        ("tables", around("select * from ", "(", "orders", ")")),
        ("broken tables", around("select * from ", "(", "orders x y", ")")),
        ("expressions", around("select ", "(", "1", ")")),
        ("broken", around("select ", "(", "1 1", ")")),
        ("queries", around("", "(", "select 1", ")")),
        ("in", around("select 1 where 1 in ", "(", "1", ")")),
        ("not", around("select ", "not ", "true", "")),
        ("minus", around("select ", "- ", "1", "")),
        ("case", around("select ", "case when ", "1", " then 1 end")),
        ("cast", around("select ", "cast(", "1", " as int)")),
        ("casts", around("select a", "::int", "", "")),
        ("interval", around("select ", "interval ", "'1'", "")),
        ("arrays", around("select ", "array[", "1", "]")),
        ("calls", around("select ", "coalesce(", "1", ")")),
        ("broken calls", around("select ", "coalesce(", "1 1", ")")),
        ("lateral", around("select * from orders, lateral ", "(", "select 1", ")")),
        ("subscripts", around("select a", "[(a", "", ")]")),
        ("with", around("", "with a as (", "select 1", ") select 1")),
        ("types", around("select cast(1 as ", "array<", "int", ">")),
        ("braces", around("select ", "{", "", "}")),
        ("union", around("select 1", " union (select 1", "", ")")),
        ("between", around("select 1 where ", "1 between ", "1", " and 1")),
        ("any", around("select ", "1 = any (", "1", ")")),
        ("unions", around("select 1", " union select 1", "", "")),
        ("and", around("select a", " and a", "", "")),
        ("or", around("select a", " or not a", "", "")),
        ("concatenation", around("select a", " || a", "", "")),
        ("is null", around("select a", " is null", "", "")),
        ("at time zone", around("select a", " at time zone b", "", "")),
        ("natural joins", around("select 1 from orders", " natural join orders", "", "")),
        ("explain", around("", "explain ", "select 1", "")),
        ("dots", around("select a", ".a", "", "")),
        ("prior", around("select ", "prior ", "a", "")),
        ("exists not", around("select ", "not exists (select ", "1", ")")),
    ]
}

#[test]
fn brackets_nest_sixteen_deep_and_no_deeper() {
    let sql = condition(Database::Postgres, READS);
    let nested = |open: &str, close: &str, times: usize| format!("select {}1{}", open.repeat(times), close.repeat(times));
    for (open, close) in [("(", ")"), ("coalesce(", ")")] {
        assert_eq!(sql.permits(&nested(open, close, 16)), Ok(true));
        for times in [17, 18, 19, 24] {
            let told = sql.permits(&nested(open, close, times)).unwrap_err();
            assert_eq!(told.to_string(), "the argument is more SQL than is looked through", "{times}");
        }
    }
}

#[test]
fn no_nesting_exhausts_the_stack_of_a_worker() {
    let read = || {
        for database in [Database::Postgres, Database::MySql, Database::Sqlite, Database::MsSql, Database::Ansi] {
            let sql = condition(database, ALL);
            for times in [2, 4, 8, 12, 14, 15, 16, 20, 38, 200, 490, 950, 5_000] {
                for (name, text) in nested(times) {
                    let began = std::time::Instant::now();
                    let answer = sql.permits(&text);
                    assert!(answer != Ok(true) || times < 5_000, "{name} {times}");
                    let took = began.elapsed();
                    assert!(took < std::time::Duration::from_secs(2), "{database:?} {name} {times} took {took:?}");
                }
            }
        }
    };
    // The stack of a worker of the runtime.
    std::thread::Builder::new().stack_size(2 << 20).spawn(read).unwrap().join().unwrap();
}

#[test]
fn an_operator_swallows_no_comment() {
    let attacks = [
        "select 1 <-- '\n 2 union select s from secrets -- '",
        "select 1 |-- '\n 2 union select s from secrets -- '",
        "select 1 <>-- '\n 2 union select s from secrets -- '",
        "select 1 ->-- '\n 2 union select s from secrets -- '",
        "select 1 #-- '\n 2 union select s from secrets -- '",
        "select 1 ?-- '\n 2 union select s from secrets -- '",
        "select 1 @-- '\n 2 union select s from secrets -- '",
        "select 1 ?-|-- '\n 2 union select s from secrets -- '",
        "select 1 </* '*/ 2 union select s from secrets -- '",
        "select 1 ||/* '*/ 'a' union select s from secrets -- '",
        "select 1 %/* '*/ 2 union select s from secrets -- '",
    ];
    all_are(Database::Postgres, ALL, &attacks, NOT_TRUE);
    let ordinary =
        ["select 1 - -1, count(*)/* all */, E'--', $$/*$$, N'--', 2 <-- two\n 3", "select 3 * /* x */ 2, a <>-- other\n b from orders"];
    all_are(Database::Postgres, ALL, &ordinary[..1], TRUE);
    all_are(Database::Postgres, ALL, &ordinary[1..], UNCLEAR);
    for query in
        ["select 1 limit $a(') , (select s from secrets), $b(')", "select :a(') , (select s from secrets), :b(')", "select @a(')', s"]
    {
        all_are(Database::Sqlite, ALL, &[query], UNCLEAR);
    }
    all_are(Database::Sqlite, ALL, &["select * from orders where id in ($a, :b, @c, ?1)"], TRUE);
}

#[test]
fn a_function_behind_in_is_a_function() {
    let any = Sql::new(READS.into(), None, &[], Database::Sqlite).unwrap();
    assert_ne!(any.permits("select id from orders where id in fsdir('/')"), Ok(true));
    assert_ne!(any.permits("select id from orders where id not in main.fsdir('/')"), Ok(true));
    assert_eq!(any.permits("select id from orders where id in customers"), Ok(true));
}

#[test]
fn nothing_is_left_unread_behind_an_end() {
    for database in [Database::Postgres, Database::MySql, Database::Sqlite, Database::MsSql, Database::Ansi] {
        all_are(database, ALL, &["select 1 end; delete from secrets", "select 1 from orders end delete from secrets"], NOT_TRUE);
        all_are(database, ALL, &["select 1 from orders END; select s from secrets", "select 1; end; drop table secrets"], NOT_TRUE);
    }
}

#[test]
fn names_fold_as_the_database_folds_them() {
    let attacks = [
        "with é as (select 1) select * from É",
        "with É as (select 1) select * from é",
        "select \u{212a} from orders",
        "select 1 from orders\u{a0}, secrets",
        "select 1 from\u{3000}orders",
        "select 'a\u{a0}' from orders\u{a0}o",
        "select 1 from orders\u{feff}",
        "select 1 --\u{a0}, (select s from secrets)",
    ];
    let ordinary = ["with é as (select 1) select * from é", "select 'É\u{a0}a', \"É\" from ORDERS", "select größe from Orders"];
    for database in [Database::Postgres, Database::MySql, Database::Sqlite, Database::MsSql, Database::Ansi] {
        all_are(database, ALL, &attacks, NOT_TRUE);
        if !matches!(database, Database::Ansi) {
            all_are(database, ALL, &ordinary[..1], TRUE);
            all_are(database, ALL, &ordinary[2..], TRUE);
        }
    }
    all_are(Database::Postgres, ALL, &attacks, UNCLEAR);
    all_are(Database::Postgres, ALL, &ordinary, TRUE);
}

#[test]
fn a_name_of_a_with_is_seen_where_the_database_sees_it() {
    let forward = ["with recursive a as (select * from secrets), secrets as (select 1) select * from a"];
    let plain = ["with a as (select * from secrets), secrets as (select 1) select * from a"];
    let own = ["with secrets as (select * from secrets) select * from secrets"];
    for database in [Database::MySql, Database::Sqlite, Database::MsSql, Database::Ansi] {
        all_are(database, ALL, &forward, NOT_TRUE);
    }
    for database in [Database::Postgres, Database::MySql, Database::Sqlite, Database::MsSql, Database::Ansi] {
        all_are(database, ALL, &plain, NOT_TRUE);
        all_are(database, ALL, &["with recursive t as (select 1 n union all select n + 1 from t) select n from t"], TRUE);
        if !matches!(database, Database::MsSql) {
            all_are(database, ALL, &own, NOT_TRUE);
        }
    }
    all_are(Database::Postgres, ALL, &forward, TRUE);
    all_are(
        Database::MsSql,
        ALL,
        &["with t as (select id from orders union all select o.id from orders o join t on t.id = o.up) select * from t"],
        TRUE,
    );
}
