import { describe, expect, test } from 'vitest';
import { backupPolicySchema } from '../../manifests/backup-policy.ts';
import { parseRate } from '../../core/rate.ts';

describe('parseRate', () => {
  test.for([
    ['100MB/s', 100_000_000],
    ['64MiB/s', 64 * 2 ** 20],
    ['20 MiB', 20 * 2 ** 20],
    ['1.5GiB/s', 1.5 * 2 ** 30],
    ['8kB/s', 8_000],
    ['8KiB/s', 8_192],
    ['4096B', 4_096],
  ] as const)('%s is %i bytes a second', ([text, bytes]) => {
    expect(parseRate(text)).toBe(bytes);
  });

  test.for(['', '5', 'fast', '10 Mbit/s', '-1MB/s', '0MB/s', '1B/s', '1MB/m', '1e3MB/s', '1MiB /s'])(
    'refuses "%s" and says how to write it',
    (text) => {
      expect(() => parseRate(text)).toThrow(/not a rate/);
    },
  );

  test('what a BackupPolicy takes for a rate is one, or is refused here in words', () => {
    const maxRate = (text: string) =>
      backupPolicySchema.safeParse({
        apiVersion: 'walkeep.io/v1',
        kind: 'BackupPolicy',
        metadata: { name: 'p' },
        spec: { clusters: ['c'], limits: { maxRate: text } },
      }).success;
    for (const text of ['100MB/s', '64 MiB/s', '2TB', '3.25KiB/s']) {
      expect(maxRate(text)).toBe(true);
      expect(parseRate(text)).toBeGreaterThan(0);
    }
  });
});
