import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { onCleanUp } from '../support/cleanup.ts';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;

/** A file system of 4 MiB, where this user may mount one. */
function mountSmall(): string | undefined {
  const path = mkdtempSync(join(tmpdir(), 'walkeep-small-'));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', path]).status === 0;
  onCleanUp(() => {
    if (mounted) spawnSync('umount', [path]);
    rmdirSync(path);
  });
  return mounted ? path : undefined;
}
const small = mountSmall();
if (small === undefined) console.warn('skipped: no small file system can be mounted here');

describe.runIf(small !== undefined)('a full disk', () => {
  it('fault 30: is store-full; nothing is stored, nothing is left, and it heals', async () => {
    const store = createFilesystemStore(small!);
    await store.put('wals/1', Buffer.alloc(3 * MiB), { signal });
    for (const ifAbsent of [true, false]) {
      await expect(store.put('wals/2', Buffer.alloc(2 * MiB), { signal, ifAbsent })).rejects.toMatchObject({
        code: 'store-full',
      });
    }
    expect(await store.head('wals/2', { signal })).toBeUndefined();
    expect(readdirSync(join(small!, '.walkeep-tmp'))).toEqual([]);
    await store.delete(['wals/1'], { signal });
    await store.put('wals/2', Buffer.alloc(2 * MiB), { signal, ifAbsent: true });
    expect(await store.head('wals/2', { signal })).toMatchObject({ sizeBytes: 2 * MiB });
  });
});
