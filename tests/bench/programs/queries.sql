-- A database in memory: inserts, an index, aggregates, a join, updates in a transaction, text.
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER, day INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
INSERT INTO customer SELECT i, 'name' || (i * 7919 % 2003), 'city' || (i % 37) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
INSERT INTO purchase SELECT i, i * 31 % 2000 + 1, i * 7919 % 10007, i % 365 FROM n;
COMMIT;
CREATE INDEX by_customer ON purchase(customer);
SELECT city, count(*), sum(cents) FROM customer JOIN purchase ON customer.id = customer GROUP BY city ORDER BY 3 DESC LIMIT 5;
SELECT day, avg(cents) FROM purchase WHERE cents > 500 GROUP BY day HAVING count(*) > 70 ORDER BY 2 LIMIT 5;
BEGIN;
UPDATE purchase SET cents = cents + 1 WHERE customer IN (SELECT id FROM customer WHERE name LIKE '%77%');
DELETE FROM purchase WHERE day BETWEEN 100 AND 120;
COMMIT;
SELECT count(DISTINCT customer), sum(cents), max(length(name || city)) FROM purchase JOIN customer ON customer.id = customer;
SELECT upper(name), substr(city, 5) FROM customer ORDER BY name DESC, id LIMIT 5;
PRAGMA integrity_check;
