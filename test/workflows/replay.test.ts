import { describe, expect, it } from 'vitest';
import { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';
import { Worker } from '@temporalio/worker';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { quiet, workflowBundle } from './fake-cluster.ts';

quiet();

const folder = fileURLToPath(new URL('../histories/', import.meta.url));
const files = readdirSync(folder).filter((name) => name.endsWith('.json'));

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

  it.for(files)('F4: %s is small', (name) => {
    const text = readFileSync(`${folder}${name}`, 'utf8');
    expect(text.length).toBeLessThan(1_000_000);
    const payloads = [...text.matchAll(/"data": *"([^"]*)"/g)].map((match) => match[1] ?? '');
    expect(Math.max(...payloads.map((payload) => payload.length))).toBeLessThan(64 * 1024);
  });
});
