-- One batch in one call. The rule is that of src/domain/ledger/escrow.rs and src/store/posting.rs, line by line: the
-- contract suite and its random trace hold all stores to the same results.

-- The clock of all replicas, in milliseconds; a test brings its own.
CREATE FUNCTION bursar_now(given BIGINT) RETURNS BIGINT LANGUAGE sql VOLATILE AS
$$ SELECT COALESCE(given, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) $$;

-- Sums saturate, as they do in the replicas.
CREATE FUNCTION bursar_plus(a BIGINT, b BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE AS
$$ SELECT GREATEST(-9223372036854775808, LEAST(9223372036854775807, a::numeric + b))::bigint $$;

CREATE FUNCTION bursar_minus(a BIGINT, b BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE AS
$$ SELECT GREATEST(-9223372036854775808, LEAST(9223372036854775807, a::numeric - b))::bigint $$;

-- What every transaction that writes does first. What is acknowledged must survive a crash whatever the server's
-- default is, and no lock is waited for longer than a caller waits.
CREATE FUNCTION bursar_begin(timeout_ms BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  PERFORM set_config('statement_timeout', timeout_ms::text, true),
          set_config('lock_timeout', timeout_ms::text, true),
          set_config('idle_in_transaction_session_timeout', timeout_ms::text, true);
END $$;

-- A batch and whoever takes over a holder that it names come one after the other: the batch shares these locks with others until
-- its transaction ends, the other one has them alone. They are asked for in the order of the holders, so that no two wait for
-- each other.
CREATE FUNCTION bursar_lock_holders(p_holders TEXT[], is_shared BOOLEAN) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
  -- "hold" as a number.
  kind CONSTANT INT := 1752132708;
  holder TEXT;
BEGIN
  FOR holder IN SELECT DISTINCT k.holder FROM unnest(p_holders) AS k(holder) ORDER BY 1 LOOP
    IF is_shared THEN
      PERFORM pg_advisory_xact_lock_shared(kind, hashtext(holder));
    ELSE
      PERFORM pg_advisory_xact_lock(kind, hashtext(holder));
    END IF;
  END LOOP;
END $$;

-- Counts a change of a workspace, as the last of one of its budgets unless that is null, and tells it. Locks the workspace
-- against other changes until the transaction ends, so that they become visible in the order of their numbers.
CREATE FUNCTION bursar_changed(of_workspace TEXT, of_budget TEXT, now_ms BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
  number BIGINT;
BEGIN
  INSERT INTO change AS t VALUES (of_workspace, 1, now_ms)
    ON CONFLICT (workspace) DO UPDATE SET count = t.count + 1, changed_at_ms = excluded.changed_at_ms
    RETURNING t.count INTO number;
  UPDATE change_mark t SET followed_at_ms = now_ms WHERE t.workspace = of_workspace AND t.count = number - 1;
  INSERT INTO change_mark VALUES (of_workspace, number, gen_random_uuid()::text, NULL);
  IF of_budget IS NOT NULL THEN
    INSERT INTO budget_change VALUES (of_workspace, of_budget, number)
      ON CONFLICT (workspace, budget) DO UPDATE SET count = excluded.count, deleted_at_ms = NULL;
  END IF;
  PERFORM pg_notify('bursar', json_build_array('changed', of_workspace)::text);
END $$;

-- a_: the accounts that the batch names, in the order of their keys. h_: who opened leases, each with who sends exchanges
-- on them. l_: its leases, each with the places of its account and of its holders. x_: its exchanges in their order, each
-- with the place of its lease; the draw is null where there is none.
-- c_: charges without a lease, each with the places of its settlement and its account. The settlements are a JSON array of objects with
-- the names of columns and `n`, their place; so are the events and the entries, whose `n` is the place of their settlement.
-- Gives a grant for each exchange, in their order. A lost lease raises BU001 with the place of its account as the detail, a sender
-- that was taken over BU002.
CREATE FUNCTION bursar_commit(
  p_workspace TEXT, p_holder TEXT,
  a_budget TEXT[], a_generation BIGINT[], a_dimension TEXT[], a_target TEXT[], a_window TEXT[],
  h_opener TEXT[], h_sender TEXT[],
  l_account INT[], l_holder INT[], l_epoch BIGINT[],
  x_lease INT[], x_seq BIGINT[], x_consumed BIGINT[], x_returned BIGINT[], x_overrun BIGINT[],
  x_need_min BIGINT[], x_need BIGINT[], x_want BIGINT[], x_closes BOOLEAN[],
  c_settlement INT[], c_account INT[], c_amount BIGINT[],
  p_settlements TEXT, p_events TEXT, p_entries TEXT,
  p_ttl_ms BIGINT, p_now_ms BIGINT
) RETURNS TABLE (
  o_granted BIGINT, o_limit BIGINT, o_spent BIGINT, o_forfeited BIGINT, o_free BIGINT, o_holders BIGINT,
  o_recalls BIGINT, o_ttl_ms BIGINT
) LANGUAGE plpgsql
-- Every table is reached by its key, however small or unknown it was when the plan was made.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_material = off SET enable_hashjoin = off
SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
-- Columns are always named with their table.
#variable_conflict use_variable
DECLARE
  credits CONSTANT TEXT := '00000000000000000000000000';
  now_ms BIGINT;
  -- By the places of holders: whether the sender speaks for the opener.
  speaks BOOLEAN[];
  is_fresh BOOLEAN[];
  fresh_ids JSONB;
  locked BIGINT;
  named INT[];
  missing INT[];
  -- Accounts, by place; null where there is none.
  allowed BIGINT[]; charged_already BIGINT[]; spent BIGINT[]; base BIGINT[]; leased BIGINT[]; forfeited BIGINT[]; overdraft BIGINT[];
  holders BIGINT[]; recalls BIGINT[]; changed BOOLEAN[]; recalled BOOLEAN[];
  -- Leases, by place; null where there is none.
  seq BIGINT[]; granted BIGINT[]; consumed BIGINT[]; returned BIGINT[]; overrun BIGINT[]; state TEXT[];
  -- For how long each is lent anew; null where it is not.
  lasts_ms BIGINT[];
  a INT; l INT; ttl BIGINT;
  outstanding BIGINT; used BIGINT; beyond BIGINT; free BIGINT; fair BIGINT; lent BIGINT;
BEGIN
  PERFORM bursar_begin(2000);
  now_ms := bursar_now(p_now_ms);

  -- Locks first: whoever takes a holder over has done so, or waits for the end of this batch.
  PERFORM bursar_lock_holders(h_opener || h_sender || p_holder, true);
  IF EXISTS (SELECT FROM takeover t WHERE t.holder = p_holder) THEN
    RAISE EXCEPTION 'the sender was taken over' USING ERRCODE = 'BU002';
  END IF;
  speaks := ARRAY(SELECT NOT EXISTS (SELECT FROM takeover t WHERE t.holder = k.sender)
      AND (k.opener = k.sender OR EXISTS (SELECT FROM takeover t WHERE t.holder = k.opener AND t.successor = k.sender))
    FROM unnest(h_opener, h_sender) WITH ORDINALITY AS k(opener, sender, n) ORDER BY k.n);

  -- Settlements come before accounts: who waits for another's settlement holds no account.
  IF p_settlements IS NOT NULL THEN
    WITH given AS MATERIALIZED (
      SELECT * FROM json_to_recordset(p_settlements::json) AS s(
        n INT, id TEXT, project TEXT, identity TEXT, api_key TEXT, provider TEXT, subject_model TEXT, reservation TEXT,
        certainty TEXT, cost BIGINT, tokens BIGINT, input BIGINT, cached BIGINT, cache_write BIGINT,
        cache_write_1h BIGINT, output BIGINT, reasoning BIGINT, model TEXT, rates TEXT, at_ms BIGINT)
    ), fresh AS (
      INSERT INTO settlement (workspace, id, ordinal, project, identity, api_key, provider, subject_model, reservation,
        certainty, cost, tokens, input, cached, cache_write, cache_write_1h, output, reasoning, model, rates, at_ms)
      SELECT p_workspace, g.id,
        g.n + COALESCE((SELECT max(s.ordinal) FROM settlement s
                        WHERE s.workspace = p_workspace AND s.reservation = g.reservation), 0),
        g.project, g.identity, g.api_key, g.provider, g.subject_model, g.reservation, g.certainty, g.cost, g.tokens,
        g.input, g.cached, g.cache_write, g.cache_write_1h, g.output, g.reasoning, g.model, g.rates, g.at_ms
      FROM given g ORDER BY g.id COLLATE "C"
      ON CONFLICT DO NOTHING
      RETURNING id
    )
    SELECT COALESCE(jsonb_object_agg(f.id, true), '{}') INTO fresh_ids FROM fresh f;
    is_fresh := ARRAY(SELECT fresh_ids ? g.id FROM json_to_recordset(p_settlements::json) AS g(n INT, id TEXT) ORDER BY g.n);
  END IF;

  -- Accounts that are not there are made, in the order of their keys, unless their budget is gone.
  named := ARRAY(SELECT DISTINCT l_account[x.lease] FROM unnest(x_lease) AS x(lease)
           UNION SELECT c.account FROM unnest(c_settlement, c_account) AS c(settlement, account)
                 WHERE is_fresh[c.settlement]);
  missing := ARRAY(SELECT k.n
    FROM unnest(a_budget, a_generation, a_dimension, a_target, a_window) WITH ORDINALITY
           AS k(budget, generation, dimension, target, window_label, n)
    WHERE k.n = ANY (named) AND NOT EXISTS (SELECT FROM account t
      WHERE t.workspace = p_workspace AND t.budget = k.budget AND t.generation = k.generation
        AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label));
  IF cardinality(missing) > 0 THEN
    -- Whoever deletes one of these budgets has done so before, or waits and then finds its new accounts.
    PERFORM FROM unnest(ARRAY(SELECT DISTINCT a_budget[m.n] AS id FROM unnest(missing) AS m(n) ORDER BY id)) AS k(id)
      CROSS JOIN LATERAL (SELECT FROM budget b WHERE b.workspace = p_workspace AND b.id = k.id FOR KEY SHARE) b;
    INSERT INTO account (workspace, budget, generation, dimension, target, window_label)
    SELECT p_workspace, a_budget[m.n], a_generation[m.n], a_dimension[m.n], a_target[m.n], a_window[m.n]
    FROM unnest(missing) AS m(n)
    WHERE CASE WHEN a_budget[m.n] = credits THEN EXISTS (SELECT FROM credit c WHERE c.workspace = p_workspace)
          ELSE EXISTS (SELECT FROM budget b WHERE b.workspace = p_workspace AND b.id = a_budget[m.n]) END
    ORDER BY m.n
    ON CONFLICT DO NOTHING;
  END IF;

  -- One key after the other, in their order: what locks cannot be turned around by a plan.
  SELECT count(*) INTO locked
    FROM unnest(a_budget, a_generation, a_dimension, a_target, a_window)
           AS k(budget, generation, dimension, target, window_label)
    CROSS JOIN LATERAL (SELECT FROM account t
      WHERE t.workspace = p_workspace AND t.budget = k.budget AND t.generation = k.generation
        AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label
      FOR NO KEY UPDATE) t;

  -- From here on nobody else writes these accounts and their leases, and each statement sees them as they are.
  SELECT array_agg(t.spent ORDER BY k.n), array_agg(t.base ORDER BY k.n), array_agg(t.leased ORDER BY k.n),
         array_agg(t.forfeited ORDER BY k.n), array_agg(t.overdraft ORDER BY k.n), array_agg(t.holders ORDER BY k.n),
         array_agg(t.recalls ORDER BY k.n), array_agg(false), array_agg(false)
    INTO spent, base, leased, forfeited, overdraft, holders, recalls, changed, recalled
    FROM unnest(a_budget, a_generation, a_dimension, a_target, a_window) WITH ORDINALITY
           AS k(budget, generation, dimension, target, window_label, n)
    LEFT JOIN account t ON t.workspace = p_workspace AND t.budget = k.budget AND t.generation = k.generation
      AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label;
  -- One was made between the two statements, for a budget that was made meanwhile.
  IF cardinality(array_remove(spent, NULL)) <> locked THEN RAISE serialization_failure; END IF;

  SELECT array_agg(CASE
      WHEN k.budget = credits AND c.granted IS NULL THEN NULL
      WHEN k.budget = credits AND k.generation = 0 AND k.dimension = 'cost' THEN c.granted
      WHEN k.budget = credits THEN 0
      WHEN b.id IS NULL THEN NULL
      -- A rolling minute has no generations.
      WHEN b.generation <> k.generation AND k.dimension <> 'requests' THEN 0
      ELSE COALESCE(CASE k.dimension WHEN 'cost' THEN b.cost_limit WHEN 'tokens' THEN b.tokens_limit
                                     WHEN 'requests' THEN b.requests_per_minute END, 0)
    END ORDER BY k.n)
    INTO allowed
    FROM unnest(a_budget, a_generation, a_dimension) WITH ORDINALITY AS k(budget, generation, dimension, n)
    LEFT JOIN budget b ON b.workspace = p_workspace AND b.id = k.budget
    LEFT JOIN credit c ON k.budget = credits AND c.workspace = p_workspace;

  SELECT array_agg(t.seq ORDER BY k.n), array_agg(t.granted ORDER BY k.n), array_agg(t.consumed ORDER BY k.n),
         array_agg(t.returned ORDER BY k.n), array_agg(t.overrun ORDER BY k.n), array_agg(t.state ORDER BY k.n),
         array_agg(NULL::bigint)
    INTO seq, granted, consumed, returned, overrun, state, lasts_ms
    FROM unnest(l_account, l_holder, l_epoch) WITH ORDINALITY AS k(account, holder, epoch, n)
    LEFT JOIN lease t ON t.workspace = p_workspace AND t.budget = a_budget[k.account]
      AND t.generation = a_generation[k.account] AND t.dimension = a_dimension[k.account]
      AND t.target = a_target[k.account] AND t.window_label = a_window[k.account]
      AND t.holder = h_opener[k.holder] AND t.epoch = k.epoch;

  -- What leases report of settlements that are on record, where others charged the account directly in the holder's place.
  IF p_events IS NOT NULL AND false = ANY (is_fresh) THEN
    WITH twice AS MATERIALIZED (
      SELECT e.budget, e.generation, e.dimension, e.target, e.window_label, sum(e.amount)::bigint AS amount
      FROM json_to_recordset(p_events::json) AS e(n INT, settlement_id TEXT, budget TEXT, generation BIGINT,
        dimension TEXT, target TEXT, window_label TEXT, amount BIGINT, road TEXT)
      -- By the settlement alone, of which there are few: by the budget there are many.
      CROSS JOIN LATERAL (SELECT * FROM usage_event t
        WHERE t.workspace = p_workspace AND t.settlement_id = e.settlement_id OFFSET 0) u
      WHERE NOT is_fresh[e.n] AND e.road = 'lease' AND u.road = 'direct' AND u.budget = e.budget
        AND u.generation = e.generation AND u.dimension = e.dimension AND u.target = e.target
        AND u.window_label = e.window_label
      GROUP BY 1, 2, 3, 4, 5
    )
    SELECT array_agg((SELECT t.amount FROM twice t
        WHERE t.budget = k.budget AND t.generation = k.generation AND t.dimension = k.dimension AND t.target = k.target
          AND t.window_label = k.window_label) ORDER BY k.n)
      INTO charged_already
      FROM unnest(a_budget, a_generation, a_dimension, a_target, a_window) WITH ORDINALITY
             AS k(budget, generation, dimension, target, window_label, n);
  END IF;

  -- An account of a budget that is gone is not made again; its charge stays in the audit trail.
  FOR i IN 1 .. cardinality(c_account) LOOP
    a := c_account[i];
    CONTINUE WHEN allowed[a] IS NULL OR NOT is_fresh[c_settlement[i]];
    IF spent[a] IS NULL THEN RAISE serialization_failure; END IF;
    free := bursar_minus(bursar_minus(bursar_minus(bursar_plus(allowed[a], base[a]), spent[a]), leased[a]), forfeited[a]);
    beyond := GREATEST(bursar_minus(c_amount[i], GREATEST(free, 0)), 0);
    spent[a] := bursar_plus(spent[a], c_amount[i]);
    overdraft[a] := bursar_plus(overdraft[a], beyond);
    changed[a] := true;
  END LOOP;

  FOR i IN 1 .. cardinality(x_lease) LOOP
    l := x_lease[i];
    a := l_account[l];
    IF allowed[a] IS NULL THEN
      -- The budget is gone: nothing is lent and nothing is owed.
      RETURN QUERY SELECT bursar_plus(x_consumed[i], x_returned[i]), 0::bigint, 0::bigint, 0::bigint, 0::bigint,
                          0::bigint, 0::bigint, p_ttl_ms;
      CONTINUE;
    END IF;
    IF NOT speaks[l_holder[l]] THEN
      RAISE EXCEPTION 'the lease is lost' USING ERRCODE = 'BU001', DETAIL = a::text;
    END IF;
    -- The budget was made between two statements above.
    IF spent[a] IS NULL THEN RAISE serialization_failure; END IF;
    ttl := p_ttl_ms;
    IF seq[l] = x_seq[i] THEN
      -- A replay. A lease that the sweep closed meanwhile has taken the report all the same, and is good for nothing more. Any other
      -- is good for what it was lent for at the least: there may have been fewer holders.
      IF state[l] = 'closed' AND NOT x_closes[i] THEN ttl := 0; END IF;
    ELSE
      IF seq[l] IS NULL THEN
        seq[l] := 0; granted[l] := 0; consumed[l] := 0; returned[l] := 0; overrun[l] := 0; state[l] := 'expired';
      END IF;
      IF state[l] = 'closed' OR seq[l] + 1 <> x_seq[i] OR consumed[l] > x_consumed[i] OR returned[l] > x_returned[i]
         OR overrun[l] > x_overrun[i] THEN
        RAISE EXCEPTION 'the lease is lost' USING ERRCODE = 'BU001', DETAIL = a::text;
      END IF;
      -- It is what this exchange adds to the account, and counts once.
      spent[a] := bursar_minus(spent[a], COALESCE(charged_already[a], 0));
      charged_already[a] := NULL;
      -- Revive.
      outstanding := bursar_minus(bursar_minus(granted[l], consumed[l]), returned[l]);
      IF state[l] = 'expired' THEN
        forfeited[a] := bursar_minus(forfeited[a], outstanding);
        leased[a] := bursar_plus(leased[a], outstanding);
        holders[a] := holders[a] + 1;
        state[l] := 'active';
      END IF;
      -- Settle.
      used := bursar_plus(bursar_minus(x_consumed[i], consumed[l]), bursar_minus(x_returned[i], returned[l]));
      beyond := bursar_minus(x_overrun[i], overrun[l]);
      beyond := bursar_plus(beyond, GREATEST(bursar_minus(used, bursar_plus(outstanding, beyond)), 0));
      spent[a] := bursar_plus(spent[a], bursar_minus(x_consumed[i], consumed[l]));
      leased[a] := bursar_plus(bursar_minus(leased[a], used), beyond);
      overdraft[a] := bursar_plus(overdraft[a], beyond);
      granted[l] := bursar_plus(granted[l], beyond);
      consumed[l] := x_consumed[i];
      returned[l] := x_returned[i];
      overrun[l] := x_overrun[i];
      outstanding := bursar_minus(bursar_minus(granted[l], consumed[l]), returned[l]);
      IF x_closes[i] THEN
        leased[a] := bursar_minus(leased[a], outstanding);
        holders[a] := GREATEST(holders[a] - 1, 0);
        returned[l] := bursar_plus(returned[l], outstanding);
        state[l] := 'closed';
      ELSIF x_want[i] IS NOT NULL THEN
        -- Lend.
        free := bursar_minus(bursar_minus(bursar_minus(bursar_plus(allowed[a], base[a]), spent[a]), leased[a]),
                             forfeited[a]);
        IF free <= 0 OR free < x_need_min[i] THEN
          IF x_need_min[i] > 0 AND leased[a] > outstanding THEN
            recalls[a] := recalls[a] + 1;
            recalled[a] := true;
          END IF;
        ELSE
          fair := CASE WHEN holders[a] > 1 THEN GREATEST(x_need[i], free / GREATEST(holders[a] / 10, 8)) ELSE free END;
          lent := GREATEST(LEAST(x_want[i], free, fair), 0);
          leased[a] := bursar_plus(leased[a], lent);
          granted[l] := bursar_plus(granted[l], lent);
        END IF;
      END IF;
      ttl := p_ttl_ms * LEAST(GREATEST(holders[a], 64), 384) / 64;
      lasts_ms[l] := ttl;
      seq[l] := x_seq[i];
      changed[a] := true;
    END IF;
    o_granted := granted[l];
    o_limit := allowed[a];
    o_spent := bursar_minus(spent[a], base[a]);
    o_forfeited := forfeited[a];
    o_free := bursar_minus(bursar_minus(bursar_minus(bursar_plus(allowed[a], base[a]), spent[a]), leased[a]), forfeited[a]);
    o_holders := holders[a];
    o_recalls := recalls[a];
    o_ttl_ms := ttl;
    RETURN NEXT;
  END LOOP;

  -- All of them are there: they are locked.
  INSERT INTO account AS t (workspace, budget, generation, dimension, target, window_label, spent, leased, forfeited,
    overdraft, holders, recalls, recalled_at_ms)
  SELECT p_workspace, k.budget, k.generation, k.dimension, k.target, k.window_label, k.spent, k.leased, k.forfeited,
    k.overdraft, k.holders, k.recalls, CASE WHEN k.recalled THEN now_ms END
  FROM unnest(a_budget, a_generation, a_dimension, a_target, a_window, spent, leased, forfeited, overdraft, holders,
              recalls, changed, recalled)
         AS k(budget, generation, dimension, target, window_label, spent, leased, forfeited, overdraft, holders,
              recalls, changed, recalled)
  WHERE k.changed
  ON CONFLICT (workspace, budget, generation, dimension, target, window_label) DO UPDATE
    SET spent = excluded.spent, leased = excluded.leased, forfeited = excluded.forfeited,
      overdraft = excluded.overdraft, holders = excluded.holders, recalls = excluded.recalls,
      recalled_at_ms = COALESCE(excluded.recalled_at_ms, t.recalled_at_ms);

  INSERT INTO lease AS t (workspace, budget, generation, dimension, target, window_label, holder, epoch, seq, granted,
    consumed, returned, overrun, state, expires_at_ms, look_at_ms)
  SELECT p_workspace, a_budget[k.account], a_generation[k.account], a_dimension[k.account], a_target[k.account],
    a_window[k.account], h_opener[k.holder], k.epoch, k.seq, k.granted, k.consumed, k.returned, k.overrun, k.state,
    bursar_plus(now_ms, k.lasts_ms), bursar_plus(now_ms, k.lasts_ms)
  FROM unnest(l_account, l_holder, l_epoch, seq, granted, consumed, returned, overrun, state, lasts_ms)
         AS k(account, holder, epoch, seq, granted, consumed, returned, overrun, state, lasts_ms)
  WHERE k.lasts_ms IS NOT NULL
  ON CONFLICT (workspace, budget, generation, dimension, target, window_label, holder, epoch) DO UPDATE
    SET seq = excluded.seq, granted = excluded.granted, consumed = excluded.consumed, returned = excluded.returned,
      overrun = excluded.overrun, state = excluded.state, expires_at_ms = excluded.expires_at_ms,
      look_at_ms = CASE WHEN t.look_at_ms BETWEEN now_ms + p_ttl_ms / 2 AND excluded.look_at_ms THEN t.look_at_ms
                        ELSE excluded.look_at_ms END;

  IF p_events IS NOT NULL THEN
    INSERT INTO usage_event (workspace, settlement_id, budget, generation, dimension, target, window_label, amount, kind,
      at_ms, road)
    SELECT p_workspace, e.settlement_id, e.budget, e.generation, e.dimension, e.target, e.window_label, e.amount, e.kind,
      e.at_ms, e.road
    FROM json_to_recordset(p_events::json) AS e(n INT, settlement_id TEXT, budget TEXT, generation BIGINT,
      dimension TEXT, target TEXT, window_label TEXT, amount BIGINT, kind TEXT, at_ms BIGINT, road TEXT)
    WHERE is_fresh[e.n];
  END IF;

  IF p_entries IS NOT NULL THEN
    INSERT INTO credit_entry (workspace, kind, id, amount, reason, project, api_key, model, at_ms)
    SELECT p_workspace, e.kind, e.id, e.amount, e.reason, e.project, e.api_key, e.model, now_ms
    FROM json_to_recordset(p_entries::json) AS e(n INT, kind TEXT, id TEXT, amount BIGINT, reason TEXT, project TEXT,
      api_key TEXT, model TEXT)
    WHERE is_fresh[e.n]
    ON CONFLICT DO NOTHING;
  END IF;

  IF true = ANY (recalled) THEN
    PERFORM pg_notify('bursar', json_build_array('recalled', p_workspace, k.budget, k.generation, k.dimension, k.target,
                                                 k.window_label, k.recalls)::text)
      FROM unnest(a_budget, a_generation, a_dimension, a_target, a_window, recalls, recalled)
             AS k(budget, generation, dimension, target, window_label, recalls, recalled)
      WHERE k.recalled;
  END IF;
END $$;
