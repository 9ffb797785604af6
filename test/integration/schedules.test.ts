import type { Client } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime } from '@temporalio/worker';
import fc from 'fast-check';
import { setTimeout as delay } from 'node:timers/promises';
import { beforeAll, describe, expect, it, test } from 'vitest';
import type { ConvergedSchedule, ScheduleService } from '../../activities/schedules.ts';
import { nextRuns, parseCron, type CronDialect } from '../../core/cron.ts';
import { scheduleTimes } from '../../core/schedule-calendars.ts';
import { dueSlots, rfc3339 } from '../../core/slots.ts';
import { scheduleOf } from '../../manifests/schedule.ts';
import { scheduledBackupSchema } from '../../manifests/scheduled-backup.ts';
import { listSlots, readSeries, readSlot, type SlotRecord } from '../../repository/slots.ts';
import { createScheduleService } from '../../workers/schedule-ports.ts';
import { clusterQueue, scheduleId } from '../../workflows/interface.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { until } from '../support/wait.ts';
import { clusterManifest, newWorld, startInstance } from '../workflows/fake-cluster.ts';

const { signal } = new AbortController();
let server: TemporalServer;
let client: Client;
let schedules: ScheduleService;

beforeAll(async () => {
  server = await startTemporal();
  client = await server.client();
  schedules = createScheduleService(client);
});

let made = 0;

/** When the real server would begin a schedule, asked of the server itself. */
async function serversRuns(
  text: string,
  {
    dialect = 'cnpg',
    timezone = 'Etc/UTC',
    after,
    count = 3,
  }: { dialect?: CronDialect; timezone?: string; after: Date; count?: number },
): Promise<{ expected: Date[]; told: Date[] }> {
  const spec = parseCron(text, dialect);
  const expected = nextRuns(spec, after, count, timezone);
  made += 1;
  const name = `vector-${made}`;
  await schedules.create({
    namespace: 'default',
    cluster: 'vectors',
    name,
    times: scheduleTimes(spec, timezone, after),
    isPaused: true,
    note: text,
    hasSearchAttributes: false,
  });
  const last = expected.at(-1) ?? after;
  const { startTime } = await client.workflowService.listScheduleMatchingTimes({
    namespace: 'default',
    scheduleId: scheduleId('default', name),
    // Its ends count or not, as the server likes: what is asked is a second wider, and cut.
    startTime: { seconds: Math.floor(after.getTime() / 1000) - 1 } as never,
    endTime: { seconds: Math.floor(last.getTime() / 1000) + 1 } as never,
  });
  await schedules.delete('default', name);
  const told = (startTime ?? [])
    .map((time) => new Date(Number(time.seconds) * 1000))
    .filter((time) => time > after && time <= last);
  return { expected, told };
}

/** Within four hours of a change of the clock: what the server does there is tested by itself. */
function isNearChange(time: Date, timezone: string): boolean {
  const format = new Intl.DateTimeFormat('en', { timeZone: timezone, timeZoneName: 'longOffset' });
  const offset = (ms: number) => format.formatToParts(ms).find(({ type }) => type === 'timeZoneName')?.value;
  return offset(time.getTime() - 4 * 3_600_000) !== offset(time.getTime() + 4 * 3_600_000);
}

/** Polling a server that is away complains on every poller: what counts is told by the assertions. */
function silence(): void {
  const filter = { core: 'ERROR', other: 'ERROR' } as const;
  Runtime.install({
    logger: new DefaultLogger('ERROR'),
    telemetryOptions: { logging: { filter, forward: {} } },
  });
}

const BASE = new Date('2026-01-21T10:07:30.5Z');

describe('F6: the real server begins schedules exactly when cron says', () => {
  test.for([
    ['0 0 * * *', 'cnpg'],
    ['0 2 * * *', 'cnpg'],
    ['0 * * * *', 'cnpg'],
    ['* * * * *', 'cnpg'],
    ['0 0 * * *', 'unix'],
    ['0 2 * * *', 'unix'],
    ['30 4 1,15 * 5', 'unix'],
    ['0 3 * * 7', 'unix'],
    ['0 0 0 * * *', 'cnpg'],
    ['@daily', 'cnpg'],
    ['@midnight', 'cnpg'],
    ['@hourly', 'cnpg'],
    ['@weekly', 'cnpg'],
    ['@monthly', 'cnpg'],
    ['@yearly', 'cnpg'],
    ['@annually', 'cnpg'],
    ['0 0 3 * * 0', 'cnpg'],
    ['0 0 3 * * SUN', 'cnpg'],
    ['0 0 12 1 * MON', 'cnpg'],
    ['0 0 12 */2 * MON', 'cnpg'],
    ['5/15 * * * * *', 'cnpg'],
    ['@every 1h30m', 'cnpg'],
    ['@every 500ms', 'cnpg'],
    ['0 0 0 29 2 *', 'cnpg'],
    ['0 0 0 ,1 * *', 'cnpg'],
    ['0 0 0 ? JAN-mar ?', 'cnpg'],
    ['30 0 2 * * *', 'cnpg'],
  ] as const)('%s as %s', async ([text, dialect]) => {
    const { expected, told } = await serversRuns(text, { dialect, after: BASE });
    expect(told).toEqual(expected);
    expect(told).toHaveLength(3);
  });

  test.for([
    ['0 30 2 * * *', 'Europe/Rome', '2026-03-27T12:00:00Z'],
    ['0 */10 1-3 * * *', 'America/New_York', '2026-11-01T03:00:00Z'],
    ['0 30 1 * * *', 'America/New_York', '2026-10-30T12:00:00Z'],
    ['0 30 2 * * *', 'America/New_York', '2026-03-06T12:00:00Z'],
    ['0 0 0 * * *', 'America/Havana', '2026-03-06T12:00:00Z'],
    ['0 30 0 * * *', 'America/Havana', '2026-10-30T12:00:00Z'],
    ['0 30 2 * * *', 'Africa/Casablanca', '2026-03-20T12:00:00Z'],
    ['0 30 2 * * *', 'Asia/Kolkata', '2026-03-20T12:00:00Z'],
  ] as const)('%s in %s over a change of the clock', async ([text, timezone, from]) => {
    const { expected, told } = await serversRuns(text, { timezone, after: new Date(from), count: 30 });
    expect(told).toEqual(expected);
  });

  // Whoever finds this test failing may rejoice: the server has learned it, and docs/schedules.md can say so.
  test.for([
    ['0 30 2 * * *', 'Europe/Rome', '2026-10-23T12:00:00Z', ['2026-10-25T00:30:00Z']],
    ['0 0 * * * *', 'Europe/Rome', '2026-10-24T12:00:00Z', ['2026-10-25T01:00:00Z']],
    ['0 30 1 * * *', 'Europe/London', '2026-10-23T12:00:00Z', ['2026-10-25T00:30:00Z']],
    ['0 0 * * * *', 'Australia/Sydney', '2026-04-04T00:00:00Z', ['2026-04-04T16:00:00Z']],
  ] as const)(
    'but leaves out a slot of "%s" in %s when the clock is put back, which the audit of slots begins',
    async ([text, timezone, from, leftOut]) => {
      const { expected, told } = await serversRuns(text, { timezone, after: new Date(from), count: 30 });
      const given = new Set(told.map((time) => time.getTime()));
      const missing = expected.filter((time) => !given.has(time.getTime()));
      expect(missing.map(rfc3339)).toEqual(leftOut);
      expect(told.length + missing.length).toBe(expected.length);
    },
  );

  it('any schedule, in any time zone', async () => {
    const field = (min: number, max: number) => {
      const value = fc.integer({ min, max });
      return fc.oneof(
        { weight: 3, arbitrary: fc.constant('*') },
        value.map(String),
        fc.tuple(value, value).map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`),
        fc.integer({ min: 2, max: Math.max(2, Math.floor(max / 2)) }).map((step) => `*/${step}`),
        fc.tuple(value, fc.integer({ min: 1, max: 7 })).map(([start, step]) => `${start}/${step}`),
        fc.uniqueArray(value, { minLength: 1, maxLength: 5 }).map((values) => values.join(',')),
      );
    };
    const text = fc
      .tuple(field(0, 59), field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
      .map((fields) => fields.join(' '));
    const zone = fc.constantFrom(
      'Etc/UTC',
      'Europe/Rome',
      'America/New_York',
      'America/St_Johns',
      'Australia/Lord_Howe',
      'Asia/Kathmandu',
      'Pacific/Auckland',
    );
    const after = fc.date({
      min: new Date('2025-01-01T00:00:00Z'),
      max: new Date('2027-12-31T00:00:00Z'),
      noInvalidDate: true,
    });
    await fc.assert(
      fc.asyncProperty(text, zone, after, async (schedule, timezone, from) => {
        if (nextRuns(parseCron(schedule, 'cnpg'), from, 1, timezone).length === 0) return;
        const { expected, told } = await serversRuns(schedule, { timezone, after: from, count: 12 });
        const counts = (time: Date) => !isNearChange(time, timezone);
        expect(told.filter(counts)).toEqual(expected.filter(counts));
      }),
      { numRuns: 150 },
    );
  });
});

describe('a server that is stopped and started', () => {
  it('F6: every slot has one outcome, none runs twice, and the outage is made up for once at most', async () => {
    silence();
    const restarted = await startTemporal();
    const schedule = scheduledBackupSchema.parse({
      apiVersion: 'postgresql.cnpg.io/v1',
      kind: 'ScheduledBackup',
      metadata: { name: 'often' },
      spec: { schedule: '*/5 * * * * *', cluster: { name: 'pg' } },
    });
    const manifest = clusterManifest('pg');
    const world = newWorld();
    world.manifests.set('pg-1:default/pg', { manifest, revision: 1 });
    const connection = await NativeConnection.connect({ address: restarted.address });
    const worker = await startInstance({ connection }, world, {
      cluster: 'pg',
      instance: 'pg-1',
      schedules: () => [schedule],
    });
    const ask = async <Result>(name: string, input: object): Promise<Result> => {
      const asking = await restarted.client();
      return (await asking.activity.execute(name, {
        id: `${name}-${Math.random()}`,
        taskQueue: clusterQueue('default', 'pg'),
        args: [{ namespace: 'default', cluster: 'pg', manifest, ...input }],
        startToCloseTimeout: '20 seconds',
      })) as Result;
    };
    const converge = (schedules: object[]) =>
      ask<ConvergedSchedule[]>('convergeSchedules', { schedules, known: ['often'] });
    const records = async (): Promise<SlotRecord[]> => {
      const around = { since: new Date(Date.now() - 3_600_000), until: new Date(Date.now() + 60_000) };
      const slots = await listSlots(world.repository, 'often', around, signal);
      const read = await Promise.all(slots.map((slot) => readSlot(world.repository, 'often', slot, signal)));
      return read.filter((record) => record !== undefined);
    };
    const count = (least: number) => async () => (await records()).length >= least;
    try {
      expect(await converge([schedule])).toMatchObject([{ outcome: 'created' }]);
      const series = await readSeries(world.repository, 'often', signal);
      await until('two slots', count(2), { timeoutMs: 60_000 });

      const stoppedAt = new Date();
      await restarted.kill9();
      const before = (await records()).length;
      await delay(22_000);
      await restarted.start();
      const startedAt = new Date();
      await until('slots after the outage', count(before + 6), { timeoutMs: 90_000 });

      const suspended = { ...schedule, spec: { ...schedule.spec, suspend: true } };
      const pausedAt = new Date();
      await converge([suspended]);
      // An answer that was lost with the server is asked for again when its time is over.
      await until(
        'the runs to end',
        async () => {
          const counting = await restarted.client();
          const query = "WorkflowType = 'scheduledBackup' AND ExecutionStatus = 'Running'";
          return (await counting.workflow.count(query)).count === 0;
        },
        { timeoutMs: 150_000 },
      );

      const all = await records();
      const { spec } = scheduleOf(schedule);
      const due = dueSlots(
        spec,
        'Etc/UTC',
        new Date(series!.since),
        new Date(pausedAt.getTime() - 2_000),
        1_000,
      );
      const recorded = all.map(({ slot }) => slot);
      expect(new Set(recorded).size).toBe(recorded.length);
      for (const slot of due) expect(recorded).toContain(rfc3339(slot));
      const copies = world.story.filter((line) => line.includes(': copy '));
      expect(new Set(copies).size).toBe(copies.length);
      const ran = all.filter(({ outcome }) => outcome === 'ran').map(({ backupName }) => backupName);
      expect(copies).toHaveLength(ran.length);
      const inOutage = all.filter(
        ({ slot }) => new Date(slot) > stoppedAt && new Date(slot).getTime() < startedAt.getTime() - 5_000,
      );
      expect(inOutage.length).toBeGreaterThanOrEqual(3);
      expect(inOutage.filter(({ outcome }) => outcome === 'ran').length).toBeLessThanOrEqual(1);
    } finally {
      await worker.stop();
      await connection.close();
    }
  });
});
