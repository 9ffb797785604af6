import { describe, expect, it } from 'vitest';
import { createServer } from 'node:http';
import { createMetrics } from '../../operations/metrics.ts';
import type { WalAgentStatus } from '../../operations/wal-agent.ts';
import { archiveReport } from '../../workers/archiver.ts';
import { serveHealth } from '../../workers/http.ts';
import { createLog, describeError, rateLimited } from '../../workers/log.ts';
import { paceFrom } from '../../workers/pace.ts';
import { BackupError } from '../../core/errors.ts';

const NOW = Date.parse('2026-11-24T02:00:00Z');
const about = {
  instance: 'i1',
  role: 'primary',
  segmentSize: 16 << 20,
  now: NOW,
  since: NOW - 60_000,
} as const;

function status(more: Partial<WalAgentStatus> = {}): WalAgentStatus {
  return {
    version: 1,
    pid: 1,
    startedAt: '2026-11-24T01:00:00Z',
    answers: { archived: 3, archivedAhead: 1, failed: 1, fetched: 0, absent: 0, fetchFailed: 0 },
    uploads: {
      files: 3,
      failed: 1,
      plainBytes: 48 << 20,
      storedBytes: 1000,
      repaired: 2,
      running: 0,
      ahead: 0,
    },
    pushLatency: { upToMs: [5, 10], counts: [1, 2], count: 3, sumMs: 40 },
    ...more,
  };
}

const archived = { name: '000000010000000000000003', at: '2026-11-24T01:59:00Z' };
const failure = {
  name: '000000010000000000000004',
  at: '2026-11-24T01:59:30Z',
  code: 'store-full',
  message: 'no room',
};

describe('archiveReport', () => {
  it.for([
    { why: 'no agent', given: undefined, health: 'off' },
    { why: 'nothing yet', given: status(), health: 'idle' },
    { why: 'a success', given: status({ lastArchived: archived }), health: 'working' },
    {
      why: 'a failure after a success',
      given: status({ lastArchived: archived, lastFailure: failure }),
      health: 'failing',
    },
    {
      why: 'a success after a failure',
      given: status({ lastArchived: { ...archived, at: '2026-11-24T01:59:50Z' }, lastFailure: failure }),
      health: 'working',
    },
  ])('$why is $health', ({ given, health }) => {
    expect(archiveReport(given, about).health).toBe(health);
  });

  it('WAL that nobody asks to archive is a failure that says why', () => {
    const waiting = { files: 4, segments: 4 };
    expect(archiveReport(status({ waiting }), about).health).toBe('idle');
    const later = archiveReport(status({ waiting }), { ...about, since: NOW - 3_600_000 });
    expect(later.health).toBe('failing');
    expect(later.lastError).toContain('archive_command');
    expect(later.waitingBytes).toBe(4 * (16 << 20));
  });
});

describe('metrics and health', () => {
  const registry = () =>
    createMetrics({
      version: '0.1.0',
      labels: { namespace: 'default', cluster: 'main', instance: 'i1' },
      health: () => ({ healthy: true, temporalConnected: false }),
      database: {
        archive: async () => status({ lastArchived: archived, waiting: { files: 2, segments: 1 } }),
        backups: () => ({ running: 1, doneBytes: 5, totalBytes: 10, completed: 2, failed: 0 }),
      },
    });

  it('shows the archiver’s counts, twice the same', async () => {
    const metrics = registry();
    for (let n = 0; n < 2; n += 1) {
      const text = await metrics.metrics();
      expect(text).toContain(
        'walkeep_archive_answers_total{answer="archived",namespace="default",cluster="main",instance="i1"} 3',
      );
      expect(text).toContain(
        'walkeep_archive_waiting{kind="segments",namespace="default",cluster="main",instance="i1"} 1',
      );
      expect(text).toMatch(/walkeep_archive_push_duration_seconds_bucket\{le="0.005",.*\} 1/);
      expect(text).toMatch(/walkeep_archive_push_duration_seconds_count\{.*\} 3/);
      expect(text).toMatch(/walkeep_archive_repaired_total\{.*\} 2/);
      expect(text).toMatch(/walkeep_temporal_connected\{.*\} 0/);
    }
  });

  it('answers /metrics, /healthz and /readyz, and takes a taken port calmly', async () => {
    const log = createLog({}, 'silent');
    let healthy = true;
    const sources = {
      registry: registry(),
      health: () => ({ healthy, ready: false, details: { temporal: 'away' } }),
    };
    const served = await serveHealth({ host: '127.0.0.1', port: 0 }, sources, log);
    const get = async (path: string) => (await fetch(`http://${served.address()}${path}`)).status;
    expect(await Promise.all(['/metrics', '/healthz', '/readyz', '/other'].map(get))).toEqual([
      200, 200, 503, 404,
    ]);
    healthy = false;
    expect(await get('/healthz')).toBe(503);
    const port = Number(served.address()?.split(':')[1]);
    const second = await serveHealth({ host: '127.0.0.1', port }, sources, log);
    expect(second.address()).toBeUndefined();
    await second.close();
    await served.close();
    expect(await canListen(port)).toBe(true);
  });
});

describe('log', () => {
  it('lets the same message through once in a while, with how many were held back', () => {
    let now = 0;
    const written: [string, number][] = [];
    const log = rateLimited(
      (text, suppressed) => written.push([text, suppressed]),
      60_000,
      () => now,
    );
    for (let n = 0; n < 5; n += 1) log('away');
    log('other');
    now = 60_000;
    log('away');
    expect(written).toEqual([
      ['away', 0],
      ['other', 0],
      ['away', 4],
    ]);
  });

  it('S1: describes a foreseen error without the stack, and any cause by its message', () => {
    const described = describeError(new BackupError('store-full', 'no room', { cause: new Error('quota') }));
    expect(described).toEqual({
      code: 'store-full',
      message: 'no room',
      hint: expect.any(String),
      cause: 'quota',
    });
  });
});

it('WALKEEP_PACE changes single values and ignores nonsense', () => {
  const pace = paceFrom({ WALKEEP_PACE: '{"heartbeat": 2, "attempts": -1, "other": 5}' });
  expect(pace).toEqual({ ...paceFrom({}), heartbeat: 2 });
});

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
