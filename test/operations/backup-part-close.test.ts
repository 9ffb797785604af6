import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { writePart, type PartTask } from '../../operations/backup-part.ts';
import { createMemoryStore } from '../../stores/memory.ts';
import { makeTempDir } from '../support/temp.ts';

const closed = vi.hoisted(() => [] as string[]);

/** Linux gives the number back whatever `close` says: to close it again would close somebody else's file. */
vi.mock('node:fs', async (original) => {
  const real = await original<typeof import('node:fs')>();
  const closeSync = (fd: number): void => {
    let path = 'nothing';
    try {
      path = real.readlinkSync(`/proc/self/fd/${fd}`);
      real.closeSync(fd);
    } finally {
      closed.push(path);
    }
    if (path.endsWith('/16384'))
      throw Object.assign(new Error('EIO: i/o error, close'), { code: 'EIO', syscall: 'close' });
  };
  return { ...real, closeSync };
});

it('a file of the data directory that can’t be closed is named, and not closed again', async () => {
  const root = makeTempDir('part');
  writeFileSync(join(root, '16384'), Buffer.alloc(8192, 1));
  const task: PartTask = {
    area: 'data',
    name: 'data.tar',
    key: 'data.tar',
    filesKey: 'files.gz',
    root,
    directories: [],
    files: [{ path: '16384', sizeBytes: 8192 }],
    inline: [],
    codec: 'none',
  };
  const options = { signal: new AbortController().signal, onProgress: () => undefined };
  await expect(writePart(createMemoryStore(), task, options)).rejects.toMatchObject({
    code: 'data-unreadable',
    message: expect.stringContaining('16384'),
  });
  expect(closed.filter((path) => path === 'nothing' || path.endsWith('/16384'))).toEqual([
    join(root, '16384'),
  ]);
});
