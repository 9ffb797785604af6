import { describe, expect, it } from 'vitest';
import { MockActivityEnvironment } from '@temporalio/testing';
import { createWalArchivingActivities, type ArchiveReport } from '../../activities/wal-archiving.ts';

const REPORT: ArchiveReport = {
  instance: 'main-1',
  role: 'primary',
  at: '2026-11-24T02:00:00Z',
  health: 'working',
  archivedCount: 1,
  failedCount: 0,
  waitingFiles: 0,
  waitingBytes: 0,
};
const INPUT = {
  namespace: 'default',
  cluster: 'main',
  instance: 'main-1',
  reportSeconds: 3600,
  seen: REPORT,
};

describe('observeArchiving', () => {
  it('goes on while nothing changes, and hands over its report when the worker stops', async () => {
    const stopping = new AbortController();
    const activities = createWalArchivingActivities({
      readArchiving: async () => REPORT,
      stopping: stopping.signal,
    });
    let ended: unknown;
    const observing = new MockActivityEnvironment()
      .run(() => activities.observeArchiving(INPUT))
      .then((report) => (ended = report));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(ended).toBeUndefined();
    const asked = performance.now();
    stopping.abort();
    expect(await observing).toEqual(REPORT);
    expect(performance.now() - asked).toBeLessThan(1000);
  });

  it('tells of the first success at once, and of one that may flap only after a while', async () => {
    const activities = createWalArchivingActivities({ readArchiving: async () => REPORT });
    const observe = (health: ArchiveReport['health']) =>
      new MockActivityEnvironment().run(() =>
        activities.observeArchiving({ ...INPUT, seen: { ...REPORT, health } }),
      );
    expect(await observe('idle')).toEqual(REPORT);
    const flapping = observe('failing').then(() => 'told');
    expect(
      await Promise.race([flapping, new Promise((resolve) => setTimeout(resolve, 100, 'not yet'))]),
    ).toBe('not yet');
  });
});
