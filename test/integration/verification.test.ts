import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import type { Verification } from '../../core/verification.ts';
import { chooseVerification } from '../../operations/verification-choice.ts';
import { recoveryCommandLine } from '../../operations/wal-command-lines.ts';
import { RECOVERY_FILE } from '../../operations/recovery-file.ts';
import {
  verifyBackup,
  type VerifyOutcome,
  type VerifyPorts,
  type VerifyRequest,
} from '../../operations/verify-backup.ts';
import { processesIn } from '../../operations/verification-processes.ts';
import { listHolds } from '../../repository/holds.ts';
import { walKey } from '../../repository/layout.ts';
import { listVerifications, writeVerification } from '../../repository/verifications.ts';
import { writeDigest } from '../../repository/wal-digest.ts';
import type { ObjectStore } from '../../stores/object-store.ts';
import { sha256 } from '../../streams/digest.ts';
import { startCanary, type Canary, type Commit } from '../support/canary.ts';
import { createPostgres, type Postgres } from '../support/postgres.ts';
import { runProcess, startProcess } from '../support/processes.ts';
import { createTestArchive, type TestArchive } from '../support/restored.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { availableMajors, describeEachMajor, postgresBin, type Major } from '../support/tools.ts';
import { until } from '../support/wait.ts';
import type { VerifyOrder } from '../operations/verify-child.ts';

const NEVER = new AbortController().signal;
const CHILD = fileURLToPath(new URL('../operations/verify-child.ts', import.meta.url));
const MINUTE = 60_000;

/** A server that goes on, its backup, and WAL behind it; nothing of it is damaged. */
interface Story {
  readonly archive: TestArchive;
  readonly postgres: Postgres;
  readonly backupId: string;
  readonly endedAt: Date;
  readonly commits: readonly Commit[];
  /** While the subscription was enabled. */
  readonly whileSubscribed: { readonly after: number; readonly time: string };
  readonly state: string;
}

let runs = 0;
function requestOf(more: Partial<VerifyRequest> = {}): VerifyRequest {
  runs += 1;
  return {
    id: `20260101T0000${String(runs % 60).padStart(2, '0')}-r${runs}`,
    seed: `seed ${runs}`,
    namespace: 'default',
    cluster: 'pg',
    backup: 'latest',
    target: 'end',
    checks: { manifest: false, pageChecksums: false, amcheck: false, queries: [] },
    readBudget: null,
    scratch: { directory: null, minFree: '1%' },
    deadline: '5m',
    ...more,
  };
}

describeEachMajor(
  'verification',
  (major) => {
    let story: Story;
    let root: string;
    beforeAll(async () => {
      story = await tellStory(major);
      root = join(makeTempDir('scratch'), 's');
    }, 3 * MINUTE);

    const ports = (more: Partial<VerifyPorts> = {}): VerifyPorts => ({
      repository: story.archive.repository,
      store: { kind: 'file', directory: story.archive.directory },
      reference: story.archive.ports.reference,
      restoreCommand: (socketPath) =>
        recoveryCommandLine({ recoveryFile: RECOVERY_FILE, stateDirectory: story.state, socketPath }),
      scratchRoot: root,
      binDirectory: postgresBin(major),
      instance: 'pg-1',
      walkeepVersion: '0.0.0-test',
      ...more,
    });
    const verify = (request: Partial<VerifyRequest> = {}, more: Partial<VerifyPorts> = {}) =>
      verifyBackup(ports(more), requestOf(request), { signal: NEVER });
    const serverFolder = () => join(story.archive.directory, story.archive.server);

    /** O3: no scratch directory, no server, no hold. */
    async function expectNothingLeft(): Promise<void> {
      expect(existsSync(root) ? readdirSync(root) : []).toEqual([]);
      expect(await listHolds(story.archive.repository, NEVER)).toEqual([]);
    }

    /** Runs `look` while a file of the repository is otherwise, and puts it back. */
    async function whileDamaged(path: string, damage: () => void, look: () => Promise<void>): Promise<void> {
      const kept = readFileSync(path);
      try {
        damage();
        await look();
      } finally {
        writeFileSync(path, kept);
        giveToServerUser(path);
      }
    }

    function failedCheck({ verification }: VerifyOutcome): {
      name?: string;
      object?: string;
      detail?: string;
    } {
      expect(verification, JSON.stringify(verification)).toMatchObject({ result: 'damaged' });
      return verification.checks.find(({ result }) => result === 'failed') ?? {};
    }

    it('C6, C5: a good backup: fetched, hashed, restored, replayed, started isolated, checked, cleaned; nothing else is written', async () => {
      const before = listing(serverFolder());
      const archived = await archiverCounts(story.postgres);
      const count = story.commits.length;
      const outcome = await verify({
        checks: {
          manifest: true,
          pageChecksums: true,
          amcheck: 'full',
          queries: [
            {
              database: 'postgres',
              sql: 'select count(*), max(id) from canary;',
              expect: `${count}|${count}`,
            },
            { database: 'postgres', sql: 'select count(*) > 0 from elsewhere', expect: 't' },
          ],
        },
      });
      const { verification } = outcome;
      expect(verification.error).toBeUndefined();
      expect(verification).toMatchObject({
        result: 'verified',
        backupId: story.backupId,
        timeline: 1,
        target: { kind: 'end' },
      });
      const results = Object.fromEntries(verification.checks.map(({ name, result }) => [name, result]));
      expect(results).toMatchObject({
        hashes: 'passed',
        manifest: 'passed',
        replay: 'passed',
        target: 'passed',
        start: 'passed',
        pageChecksums: 'passed',
      });
      expect(results['amcheck']).toMatch(/passed|skipped/);
      expect(verification.postgresVersion).toContain(String(major));
      const { fetchSeconds = 0, replaySeconds = 0, startSeconds = 0, rtoSeconds = 0 } = verification;
      expect(rtoSeconds).toBeCloseTo(fetchSeconds + replaySeconds + startSeconds, 2);
      expect(verification.rpoSeconds).toBeLessThan(60);
      const newest = story.commits.at(-1) as Commit;
      expect(Date.parse(verification.reachedTime ?? '')).toBeGreaterThanOrEqual(
        Math.floor(newest.sentAt) - 1,
      );
      await expectNothingLeft();
      expect(listing(serverFolder())).toEqual(before);
      expect(await archiverCounts(story.postgres)).toEqual(archived);
      // The evidence is kept once, whoever writes it again.
      await writeVerification(story.archive.repository, verification, NEVER);
      await writeVerification(story.archive.repository, verification, NEVER);
      expect(await listVerifications(story.archive.repository, NEVER, { limit: 1 })).toEqual([verification]);
    });

    it('C6: a random target is chosen between the backup’s end and the newest commit, the same for the same seed', async () => {
      const wanted = { backup: 'random', target: 'random', seed: 'the same' } as const;
      const one = await verify(wanted);
      expect(one.verification).toMatchObject({ result: 'verified', target: { kind: 'time' } });
      const again = await chooseVerification(story.archive.repository, wanted, { signal: NEVER });
      expect(again.plan.target.value).toBe(one.verification.target.value);
      const at = Date.parse(one.verification.target.value ?? '');
      expect(at).toBeGreaterThan(story.endedAt.getTime());
      expect(at).toBeLessThan((story.commits.at(-1) as Commit).acknowledgedAt);
    });

    it('C5: a copy with an enabled subscription does not move the slot of production; libraries that are missing or not needed are left out', async () => {
      const slot = async () =>
        story.postgres.psql(
          `select confirmed_flush_lsn::text, restart_lsn::text, active from pg_replication_slots where slot_name = 'moved'`,
        );
      const before = await slot();
      expect(before).toMatchObject([{ active: false }]);
      const rows = () => story.postgres.psql('select count(*)::int as n from published');
      expect(await rows()).toEqual([{ n: 3 }]);
      const outcome = await verify({
        target: { targetTime: story.whileSubscribed.time },
        checks: {
          manifest: false,
          pageChecksums: false,
          amcheck: false,
          queries: [
            // As it was then: enabled, in the copy too.
            { database: 'subscriber', sql: 'select subenabled from pg_subscription', expect: 't' },
            { database: 'subscriber', sql: 'select count(*) from published', expect: '1' },
            {
              database: 'subscriber',
              sql: `select count(*) from pg_stat_activity where backend_type ~ 'logical'`,
              expect: '0',
            },
            {
              database: 'postgres',
              sql: `select current_setting('pg_stat_statements.max', true)`,
              expect: '',
            },
          ],
        },
      });
      expect(outcome.verification.error).toBeUndefined();
      expect(outcome.verification.result).toBe('verified');
      expect(await slot()).toEqual(before);
    });

    it('C6: a flipped byte in a base tar is found and named', async () => {
      const tar = partOf(story);
      await whileDamaged(
        tar,
        () => flipByte(tar, Math.floor(statSync(tar).size / 2)),
        async () => {
          const check = failedCheck(await verify());
          expect(check.name).toBe('hashes');
          expect(check.object).toMatch(/data(_\d+)?\.tar\.gz$/);
        },
      );
      await expectNothingLeft();
    });

    it('D5: what seems damaged because it is being deleted meanwhile is not tried', async () => {
      const tar = partOf(story);
      const { store } = story.archive.repository;
      let readings = 0;
      const sweeping: ObjectStore = {
        ...boundTo(store),
        get: (key, options) => {
          if (key.endsWith(basename(tar))) readings += 1;
          return store.get(key, options);
        },
        // The sweep begins when the damage has been read twice, and before it is judged.
        head: async (key, options) =>
          key.endsWith('.deleting') && readings > 1
            ? { key, sizeBytes: 0, modifiedAt: new Date(), metadata: {} }
            : store.head(key, options),
      };
      const repository = { ...story.archive.repository, store: sweeping };
      await whileDamaged(
        tar,
        () => flipByte(tar, Math.floor(statSync(tar).size / 2)),
        async () => {
          const { verification } = await verify({}, { repository, store: undefined });
          expect(verification).toMatchObject({ result: 'not-tried' });
          expect(verification.error).toContain('being deleted');
        },
      );
    });

    it('C6: a missing segment in the middle is found and named', async () => {
      const [, missing] = segmentsAfter(story);
      const path = segmentPath(story, missing);
      renameSync(path, `${path}.away`);
      try {
        expect(failedCheck(await verify())).toMatchObject({ name: 'wal', object: missing });
      } finally {
        renameSync(`${path}.away`, path);
      }
    });

    // What follows is the same for every major.
    if (major !== 15) return;

    it('C6: a truncated base tar is found and named', async () => {
      const tar = partOf(story);
      await whileDamaged(
        tar,
        () => truncateSync(tar, statSync(tar).size - 100),
        async () => {
          const check = failedCheck(await verify());
          expect(`${check.name} ${check.object} ${check.detail}`).toMatch(/data(_\d+)?\.tar\.gz/);
        },
      );
    });

    it('C6: a truncated segment, an empty one, an altered one, WAL of another place and of another cluster are found and named', async () => {
      const [, name, other] = segmentsAfter(story);
      const path = segmentPath(story, name);
      const foreign = readFileSync(path);
      const { repository, server, directory } = story.archive;
      const digest = { sha256: sha256(foreign), sizeBytes: foreign.length };
      const object = await repository.store.head(walKey(server, name, 'none'), { signal: NEVER });
      await writeDigest(repository, object!, digest, NEVER);
      // whoever may not read a record has none
      const ours = join(directory, server, 'walkeep');
      for (const inside of ['', ...readdirSync(ours, { recursive: true }).map(String)])
        giveToServerUser(join(ours, inside));
      const turnByte = () => {
        flipByte(path, statSync(path).size - 100);
        // a bit that turns on a disk leaves the time as it is, and tells thereby that it is no other file
        utimesSync(path, object!.modifiedAt, object!.modifiedAt);
      };
      foreign.writeBigUInt64LE(7_000_000_000_000_000_001n, 24);
      const damages: [why: string, damage: () => void, says: RegExp][] = [
        ['truncated', () => truncateSync(path, 1_000_000), /1000000 bytes/],
        ['empty', () => truncateSync(path, 0), new RegExp(name)],
        ['of another place', () => writeFileSync(path, readFileSync(segmentPath(story, other))), /page of/],
        ['of another cluster', () => writeFileSync(path, foreign), /system 7000000000000000001/],
        // Behind the last record, where nothing but the recorded hash speaks against it.
        ['altered', () => turnByte(), /SHA-256/],
      ];
      for (const [why, damage, says] of damages) {
        await whileDamaged(path, damage, async () => {
          const check = failedCheck(await verify());
          expect(check, why).toMatchObject({ name: 'replay', object: name });
          expect(check.detail, why).toMatch(says);
        });
      }
      await expectNothingLeft();
    });

    it('C6, C4: a flipped byte in a WAL record, which PostgreSQL takes for the end of the WAL, is found and named', async () => {
      const [, name] = segmentsAfter(story);
      const path = segmentPath(story, name);
      // Behind the header of the first page, where the canary's records are.
      await whileDamaged(
        path,
        () => flipByte(path, 200),
        async () => {
          const check = failedCheck(await verify());
          expect(['target', 'replay']).toContain(check.name);
          expect(check.object).toBe(name);
        },
      );
    });

    it('C6: a question with another answer is damage; one that can’t be asked is no finding', async () => {
      const ask = (...questions: [sql: string, expected: string][]) => {
        const queries = questions.map(([sql, expected]) => ({ database: 'postgres', sql, expect: expected }));
        return verify({ checks: { manifest: false, pageChecksums: false, amcheck: false, queries } });
      };
      const wrong = await ask(['select count(*) from canary', '0'], ['select count(*) from lost', '0']);
      expect(failedCheck(wrong)).toMatchObject({ object: 'postgres' });
      const failed = wrong.verification.checks.filter(({ result }) => result === 'failed');
      expect(failed.map(({ detail }) => detail)).toEqual([
        expect.stringMatching(/does not exist/),
        expect.stringMatching(/^expected "0", the answer is/),
      ]);
      // S4: a reader, whatever it is told.
      const refused = [
        'selct 1',
        'select 1; drop table canary',
        `select pg_read_file('/etc/passwd')`,
        `copy (select 1) to program 'true'`,
      ];
      const { verification } = await ask(...refused.map((sql): [string, string] => [sql, '1']));
      expect(verification.result).toBe('not-tried');
      const skipped = verification.checks.filter(
        ({ name, result }) => name.startsWith('query') && result === 'skipped',
      );
      expect(skipped).toHaveLength(refused.length);
      expect(verification.checks).toContainEqual(
        expect.objectContaining({ name: 'target', result: 'passed' }),
      );
    });

    it('C6: no room, no place, no PostgreSQL, the store away, a deadline: not tried, never damaged', async () => {
      const notTried = async (
        says: RegExp,
        request: Partial<VerifyRequest> = {},
        more: Partial<VerifyPorts> = {},
      ) => {
        const { verification, mayTryAgain } = await verify(request, more);
        expect(verification, String(says)).toMatchObject({ result: 'not-tried' });
        expect(verification.error).toMatch(says);
        expect(verification.checks.filter(({ result }) => result === 'failed')).toEqual([]);
        return mayTryAgain;
      };
      const file = join(makeTempDir('file'), 'file');
      writeFileSync(file, '');
      expect(await notTried(/100%/, { scratch: { directory: null, minFree: '100%' } })).toBe(false);
      expect(
        await notTried(/can't make/, { scratch: { directory: join(file, 'below'), minFree: '1%' } }),
      ).toBe(false);
      const beside = { scratchRoot: join(makeTempDir('beside'), 's'), pgdata: story.postgres.dataDirectory };
      expect(await notTried(/file system of the data directory/, {}, beside)).toBe(false);
      expect(await notTried(/there is no PostgreSQL/, {}, { binDirectory: otherBin(major) })).toBe(true);
      expect(await notTried(/within 1s/, { deadline: '1s' })).toBe(false);
      expect(await notTried(/no backup "nobody"/, { backup: 'nobody' })).toBe(false);
      expect(await notTried(/beyond reach/, { target: { targetTime: '2099-01-01T00:00:00Z' } })).toBe(false);
      await writeVerification(story.archive.repository, readToday(1 << 30), NEVER);
      expect(await notTried(/read budget is used up/, { readBudget: '20%' })).toBe(false);
      await expectNothingLeft();
      const away = `${story.archive.directory}.away`;
      renameSync(story.archive.directory, away);
      try {
        expect((await verify()).verification.result).toBe('not-tried');
      } finally {
        if (existsSync(story.archive.directory)) rmSync(story.archive.directory, { recursive: true });
        renameSync(away, story.archive.directory);
      }
    });

    it.for(['verify.scratch-made', 'verify.restored', 'verify.server-started'] as const)(
      'F2, O3: killed at %s, what it left is removed by the next one, which verifies',
      async (place) => {
        const order = childOrder(story, root, major);
        const child = startChild(order, { WALKEEP_FAILPOINT: `${place}:kill` });
        expect(await child.ended, child.output()).toMatchObject({ signal: 'SIGKILL' });
        const [left] = readdirSync(root);
        expect(left).toBe(order.request.id);
        const data = join(root, order.request.id, 'data');
        const isServing = place === 'verify.server-started';
        expect(processesIn(data)?.length ?? 0).toBeGreaterThan(isServing ? 0 : -1);
        const outcome = await runChild({ ...order, request: { ...requestOf(), id: order.request.id } });
        expect(outcome.verification).toMatchObject({ result: 'verified' });
        expect(outcome.verification.warnings.join()).toContain('had left behind');
        expect(processesIn(data)).toEqual([]);
        await expectNothingLeft();
      },
    );

    it('F2, O3: asked to end, it ends its server and removes its directory', async () => {
      const order = childOrder(story, root, major);
      const child = startChild(order);
      await until('it to replay', () => existsSync(join(root, order.request.id, 'server.log')), {
        timeoutMs: MINUTE,
      });
      const { code } = await child.stop('SIGTERM', 30_000);
      expect(code).not.toBe(0);
      expect(child.output()).toContain('asked to end');
      await expectNothingLeft();
    });

    it('what lies in the scratch directory and is no verification’s stays; so does one that goes on', async () => {
      mkdirSync(join(root, 'mine'), { recursive: true });
      mkdirSync(join(root, '20250101T000000-full'));
      writeFileSync(join(root, '20250101T000000-full', 'precious'), 'x');
      const order = childOrder(story, root, major);
      const child = startChild(order, { WALKEEP_FAILPOINT: 'verify.restored:stop' });
      await until('it to restore', () => existsSync(join(root, order.request.id, 'data', 'backup_label')), {
        timeoutMs: MINUTE,
      });
      expect((await verify()).verification.result).toBe('verified');
      expect(readdirSync(root).toSorted()).toEqual(
        ['20250101T000000-full', order.request.id, 'mine'].toSorted(),
      );
      // Fenced: another attempt of the very same one waits until it has ended.
      const again = await verifyBackup(ports(), { ...order.request }, { signal: NEVER });
      expect(again).toMatchObject({ mayTryAgain: true, verification: { result: 'not-tried' } });
      child.signal('SIGCONT');
      expect(await child.ended).toMatchObject({ code: 0 });
      rmSync(join(root, 'mine'), { recursive: true });
      rmSync(join(root, '20250101T000000-full'), { recursive: true });
      await expectNothingLeft();
    });

    it.runIf(serverUser !== undefined)('C6: a disk that fills up in the middle: not tried', async () => {
      const small = makeTempDir('small');
      const { code } = await runProcess('mount', [
        '-t',
        'tmpfs',
        '-o',
        'size=160m,mode=0755',
        'tmpfs',
        small,
      ]);
      if (code !== 0) return console.warn('skipped: no tmpfs can be mounted here');
      try {
        giveToServerUser(small);
        // It would fit, says the record; what else is written there meanwhile is found out on the way.
        let isFull = false;
        const { verification } = await verifyBackup(
          ports(),
          requestOf({ scratch: { directory: join(small, 's'), minFree: '0%' } }),
          {
            signal: NEVER,
            onProgress: ({ phase, doneBytes }) => {
              if (phase !== 'restoring' || doneBytes === 0 || isFull) return;
              isFull = true;
              fillUp(join(small, 'filler'));
            },
          },
        );
        expect(verification.error).toMatch(/no room|no space|left/i);
        expect(verification.result, JSON.stringify(verification)).toBe('not-tried');
        expect(readdirSync(join(small, 's'))).toEqual([]);
      } finally {
        await runProcess('umount', ['-l', small]);
      }
      return undefined;
    });

    it('C6: a page that was damaged before the backup is found in the copy, with its file and block', async () => {
      const { postgres, archive } = story;
      const [place] = await postgres.psql<{ path: string }>(`select pg_relation_filepath('spoilt') as path`);
      await postgres.psql('checkpoint');
      const file = join(postgres.dataDirectory, place?.path ?? '');
      flipByte(file, 8192 + 4000);
      await archive.takeBackup(postgres, { name: 'spoilt' });
      await postgres.waitUntilArchived(await postgres.switchWal());
      const checks = { manifest: true, pageChecksums: true, amcheck: false as const, queries: [] };
      const check = failedCheck(await verify({ checks, backup: 'spoilt' }));
      expect(check).toMatchObject({ name: 'pageChecksums', object: place?.path });
      expect(check.detail).toContain('block 1 of');
      await expectNothingLeft();
    });

    it('C6: damage stays damage whatever words it is told in: a TOAST value whose chunk is missing, an answer of “3 rows missing”', async () => {
      const { postgres } = story;
      for (const statement of [
        'create extension pg_surgery',
        'create table documents (body text)',
        'alter table documents alter body set storage external',
        `insert into documents values (repeat('x', 3000))`,
        // Killed for good, and by WAL: the copy comes to it as well.
        `select heap_force_kill(reltoastrelid, array['(0,1)', '(0,2)']::tid[]) from pg_class where relname = 'documents'`,
      ])
        await postgres.psql(statement);
      await postgres.waitUntilArchived(await postgres.switchWal());
      for (const [sql, says] of [
        ['select md5(body) from documents', /missing chunk number 0 for toast value/],
        [`select '3 rows missing'`, /the answer is "3 rows missing"/],
      ] as const) {
        const queries = [{ database: 'postgres', sql, expect: 'all there' }];
        const outcome = await verify({
          checks: { manifest: false, pageChecksums: false, amcheck: false, queries },
        });
        expect(failedCheck(outcome)).toMatchObject({
          object: 'postgres',
          detail: expect.stringMatching(says),
        });
        expect(outcome.mayTryAgain).toBe(false);
      }
      await expectNothingLeft();
    });
  },
  [15, otherMajor()],
);

/** The newest besides 15 that is here. */
function otherMajor(): Major {
  return availableMajors().findLast((major) => major !== 15) ?? 17;
}

async function tellStory(major: Major): Promise<Story> {
  const archive = createTestArchive();
  const state = makeTempDir('state');
  const hasLibrary = major !== 16;
  const postgres = await createPostgres({
    major,
    archiveCommand: archive.archiveCommand,
    config: {
      wal_level: 'logical',
      ...(hasLibrary && { shared_preload_libraries: 'pg_stat_statements' }),
    },
  });
  const tablespace = join(makeTempDir('ts'), 'sp ace');
  mkdirSync(tablespace);
  giveToServerUser(tablespace);
  await postgres.psql(`CREATE TABLESPACE "Räume" LOCATION '${tablespace}'`);
  await postgres.psql(`
    CREATE TABLE elsewhere TABLESPACE "Räume" AS SELECT generate_series(1, 5000) AS n;
    CREATE TABLE spoilt AS SELECT n, repeat('x', 200) AS pad FROM generate_series(1, 200) n;
    CREATE TABLE published (n int PRIMARY KEY);
    CREATE PUBLICATION pub FOR TABLE published;`);
  await subscribe(postgres);
  // Not loaded until a restart that never comes; the copy has it in its files.
  await postgres.psql(
    `ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements', 'walkeep_not_there'`,
  );
  const canary = await startCanary(postgres);
  await canary.waitFor(5);
  const { backupId, endTime } = await archive.takeBackup(postgres, { jobs: 2 });
  await canary.waitFor(canary.commits.length + 25);
  const whileSubscribed = await momentOf(canary);
  await withSubscriber(postgres, 'ALTER SUBSCRIPTION sub DISABLE');
  await until('the slot to be left', async () => {
    const [slot] = await postgres.psql<{ active: boolean }>(
      `select active from pg_replication_slots where slot_name = 'moved'`,
    );
    return slot?.active === false;
  });
  await postgres.psql('INSERT INTO published VALUES (2), (3)');
  for (let i = 0; i < 3; i += 1) {
    await postgres.switchWal();
    await canary.waitFor(canary.commits.length + 8);
  }
  const commits = await canary.stop();
  await postgres.waitUntilArchived(await postgres.switchWal());
  return { archive, postgres, backupId, endedAt: new Date(endTime), commits, whileSubscribed, state };
}

/** A subscription of this very server to itself, with a slot that was made beforehand. */
async function subscribe(postgres: Postgres): Promise<void> {
  await postgres.psql('CREATE DATABASE subscriber');
  await postgres.psql(`SELECT pg_create_logical_replication_slot('moved', 'pgoutput')`);
  const connection = `host=${postgres.socketDirectory} port=${postgres.port} user=postgres dbname=postgres`;
  await withSubscriber(
    postgres,
    'CREATE TABLE published (n int PRIMARY KEY)',
    `CREATE SUBSCRIPTION sub CONNECTION '${connection}' PUBLICATION pub
       WITH (create_slot = false, slot_name = 'moved', copy_data = false)`,
  );
  await postgres.psql('INSERT INTO published VALUES (1)');
  await until('the subscription to follow', async () => {
    const client = await postgres.connect('subscriber');
    try {
      return (await client.query('SELECT FROM published')).rowCount === 1;
    } finally {
      await client.end();
    }
  });
}

async function withSubscriber(postgres: Postgres, ...statements: string[]): Promise<void> {
  const client = await postgres.connect('subscriber');
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

async function momentOf(canary: Canary): Promise<Story['whileSubscribed']> {
  const after = canary.commits.length;
  const time = canary.momentAfter(after).toISOString();
  await canary.waitFor(after + 2);
  return { after, time };
}

async function archiverCounts(postgres: Postgres) {
  return postgres.psql('SELECT archived_count::int, failed_count::int FROM pg_stat_archiver');
}

/** Every file below `base` and `wals`, with its size and time. */
function listing(folder: string): string[] {
  return ['base', 'wals'].flatMap((name) =>
    readdirSync(join(folder, name), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => {
        const path = join(entry.parentPath, entry.name);
        const { size, mtimeMs } = statSync(path);
        return `${path} ${size} ${mtimeMs}`;
      })
      .toSorted(),
  );
}

/** The largest tar of the backup. */
function partOf({ archive, backupId }: Story): string {
  const folder = join(archive.directory, archive.server, 'base', backupId);
  const tars = readdirSync(folder)
    .filter((name) => /^data.*\.tar/.test(name))
    .map((name) => join(folder, name));
  return tars.toSorted((a, b) => statSync(b).size - statSync(a).size)[0] as string;
}

/** The last segments of the archive that were filled by the canary, oldest first. */
function segmentsAfter({ archive }: Story): [string, string, string, ...string[]] {
  const folder = join(archive.directory, archive.server, 'wals', '0000000100000000');
  const names = readdirSync(folder).filter((name) => /^[0-9A-F]{24}$/.test(name));
  const last = names.toSorted().slice(-4);
  if (last.length < 4) throw new Error(`too few segments: ${names.join()}`);
  return last as [string, string, string];
}

function segmentPath({ archive }: Story, name: string): string {
  return join(archive.directory, archive.server, 'wals', name.slice(0, 16), name);
}

function flipByte(path: string, at: number): void {
  const fd = openSync(path, 'r+');
  try {
    const byte = Buffer.alloc(1);
    readSync(fd, byte, 0, 1, at);
    byte[0] = (byte[0] ?? 0) ^ 0x10;
    writeSync(fd, byte, 0, 1, at);
  } finally {
    closeSync(fd);
  }
}

function otherBin(major: Major): string {
  const other = availableMajors().find((one) => one !== major);
  return other === undefined ? '/nowhere' : postgresBin(other);
}

/** A store's methods, for one that differs in some of them. */
function boundTo(store: ObjectStore): ObjectStore {
  return {
    url: store.url,
    features: store.features,
    put: (...args) => store.put(...args),
    get: (...args) => store.get(...args),
    head: (...args) => store.head(...args),
    list: (...args) => store.list(...args),
    folders: (...args) => store.folders(...args),
    delete: (...args) => store.delete(...args),
    close: () => store.close(),
  };
}

/** Writes until nothing more fits. */
function fillUp(path: string): void {
  try {
    writeFileSync(path, Buffer.alloc(200 << 20));
  } catch {
    // as it was meant to be
  }
}

/** Evidence of another verification that has just read so much. */
function readToday(storedBytes: number): Verification {
  const now = new Date().toISOString();
  return {
    version: 1,
    id: `${now.replaceAll(/[-:]/g, '').slice(0, 15)}-spent`,
    namespace: 'default',
    cluster: 'pg',
    result: 'not-tried',
    startedAt: now,
    endedAt: now,
    host: '',
    instance: '',
    target: { kind: 'end' },
    walkeepVersion: '0',
    storedBytes,
    checks: [],
    warnings: [],
  };
}

function childOrder(story: Story, root: string, major: Major): VerifyOrder {
  return {
    directory: story.archive.directory,
    server: story.archive.server,
    state: story.state,
    scratchRoot: root,
    binDirectory: postgresBin(major),
    request: requestOf(),
  };
}

/** As the user that PostgreSQL runs as, like a worker. */
function startChild(order: VerifyOrder, env: Record<string, string> = {}) {
  openRepository(order);
  return startProcess(process.execPath, [CHILD, JSON.stringify(order)], {
    user: serverUser,
    env: { ...process.env, ...env },
  });
}

async function runChild(order: VerifyOrder): Promise<VerifyOutcome> {
  const child = await runProcess(process.execPath, [CHILD, JSON.stringify(order)], { user: serverUser });
  expect(child.code, child.stderr).toBe(0);
  return JSON.parse(child.stdout) as VerifyOutcome;
}

/** What this process, root perhaps, has written there is the worker's, too. */
function openRepository({ directory, scratchRoot }: VerifyOrder): void {
  mkdirSync(scratchRoot, { recursive: true });
  giveToServerUser(scratchRoot);
  chmodSync(directory, 0o755);
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    giveToServerUser(join(entry.parentPath, entry.name));
  }
}
