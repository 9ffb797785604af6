import type { FileHandle } from 'node:fs/promises';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { createFilesystemStore } from '../../stores/filesystem.ts';
import { collectBytes } from '../../streams/chunks.ts';
import { makeTempDir } from '../support/temp.ts';

const signal = new AbortController().signal;
const failing = vi.hoisted(() => ({ reads: false }));

/** A disk that takes a file back only with an error: of files that are read, and of nothing else. */
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const broken = (syscall: string) =>
    Object.assign(new Error(`EIO: i/o error, ${syscall}`), { code: 'EIO', syscall });
  const open = async (...given: Parameters<typeof real.open>): Promise<FileHandle> => {
    const handle = await real.open(...given);
    const close = handle.close.bind(handle);
    handle.close = async () => {
      await close();
      throw broken('close');
    };
    if (failing.reads) Object.assign(handle, { stat: () => Promise.reject(broken('fstat')) });
    return handle;
  };
  return { ...real, open };
});

it('a file that can’t be closed is an error of the store that names it, unless something came before', async () => {
  const root = makeTempDir('close');
  writeFileSync(join(root, 'key'), 'x');
  const store = createFilesystemStore(root);
  const read = async () => collectBytes((await store.get('key', { signal }))!, 100);
  await expect(read()).rejects.toMatchObject({
    code: 'store-unavailable',
    message: expect.stringMatching(/\/key can not be read or written: EIO.*close/),
  });
  failing.reads = true;
  await expect(read()).rejects.toMatchObject({ message: expect.stringContaining('fstat') });
});
