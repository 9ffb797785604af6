import { describe, expect, it } from 'vitest';
import { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';
import { Worker } from '@temporalio/worker';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { BackupNews } from '../../workflows/interface.ts';
import { quiet, workflowBundle } from './fake-cluster.ts';

quiet();

const folder = fileURLToPath(new URL('../histories/', import.meta.url));
const files = readdirSync(folder).filter((name) => name.endsWith('.json'));

/** As much of a history as JSON as is changed here. */
interface RecordedHistory {
  readonly events: readonly {
    readonly workflowExecutionSignaledEventAttributes?: {
      readonly signalName: string;
      readonly input: { readonly payloads: readonly { data: string }[] };
    };
  }[];
}

describe('recorded histories', () => {
  it('there is one for every workflow', () => {
    const orchestrated = ['scheduled-backup', 'retention-sweep', 'wal-audit', 'restore-verification'];
    for (const workflow of ['cluster', 'wal-archiving', 'base-backup', 'restore', ...orchestrated]) {
      expect(files.some((name) => name.includes(workflow))).toBe(true);
    }
  });

  it.for(files)('F3: %s replays with the present code', async (name) => {
    const history = historyFromJSON(JSON.parse(readFileSync(`${folder}${name}`, 'utf8')));
    // Workflows look at their own id.
    const workflowId = history.events?.[0]?.workflowExecutionStartedEventAttributes?.workflowId;
    expect(workflowId).toBeTruthy();
    await Worker.runReplayHistory(
      { workflowBundle: await workflowBundle() },
      history,
      workflowId ?? undefined,
    );
  });

  it('F3: a keeper that an older worker went on with replays, though a Backup told that its outcome is unwritten', async () => {
    const json: RecordedHistory = JSON.parse(
      readFileSync(`${folder}0.2.0-cluster-running.json`, 'utf8'),
    ) as RecordedHistory;
    let marked = 0;
    for (const { workflowExecutionSignaledEventAttributes: signal } of json.events) {
      const [payload] = signal?.signalName === 'backup' ? signal.input.payloads : [];
      if (!payload) continue;
      const news = JSON.parse(Buffer.from(payload.data, 'base64').toString()) as BackupNews;
      if (news.status.phase !== 'failed') continue;
      payload.data = Buffer.from(JSON.stringify({ ...news, unwritten: true })).toString('base64');
      marked += 1;
    }
    expect(marked).toBeGreaterThan(0);
    const history = historyFromJSON(json);
    const id = history.events?.[0]?.workflowExecutionStartedEventAttributes?.workflowId ?? '';
    await Worker.runReplayHistory({ workflowBundle: await workflowBundle() }, history, id);
  });

  it.for(files)('F4: %s is small', (name) => {
    const text = readFileSync(`${folder}${name}`, 'utf8');
    expect(text.length).toBeLessThan(1_000_000);
    const payloads = [...text.matchAll(/"data": *"([^"]*)"/g)].map((match) => match[1] ?? '');
    expect(Math.max(...payloads.map((payload) => payload.length))).toBeLessThan(64 * 1024);
  });
});
