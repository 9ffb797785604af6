import { afterEach, describe, expect, it, vi } from 'vitest';
import { failpoint, FAILPOINTS } from '../../core/failpoint.ts';

afterEach(() => vi.unstubAllEnvs());

describe('failpoint', () => {
  it('does nothing unless asked', () => {
    for (const name of FAILPOINTS) expect(() => failpoint(name)).not.toThrow();
  });

  it('fails where it is told to, and only there', () => {
    vi.stubEnv('WALKEEP_FAILPOINT', 'backup.copied:throw');
    expect(() => failpoint('backup.stopped')).not.toThrow();
    expect(() => failpoint('backup.copied')).toThrow('failpoint backup.copied');
  });

  it('fails at the n-th pass, and only then', () => {
    vi.stubEnv('WALKEEP_FAILPOINT', 'backup.stopped:throw:2,backup.confirmed:throw');
    expect(() => failpoint('backup.stopped')).not.toThrow();
    expect(() => failpoint('backup.stopped')).toThrow('failpoint backup.stopped');
    expect(() => failpoint('backup.stopped')).not.toThrow();
    expect(() => failpoint('backup.confirmed')).toThrow('failpoint backup.confirmed');
  });

  it('names every place once', () => {
    expect(new Set(FAILPOINTS).size).toBe(FAILPOINTS.length);
  });
});
