/** A disk that fails: the n-th fsync, rename, link, write or close of this process ends with EIO or ENOSPC. */
import fs from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

export type DiskCall = 'fsync' | 'rename' | 'link' | 'write' | 'close';
export interface DiskFault {
  readonly call: DiskCall;
  /** From 1; 0 only counts. */
  readonly nth: number;
  readonly code: 'EIO' | 'ENOSPC';
}

type AnyFunction = (...args: unknown[]) => unknown;
type Functions = Record<string, AnyFunction>;

/** Runs `work` on such a disk. @returns how often the call was made, and whether it failed */
export async function onFailingDisk<Result>(
  { call, nth, code }: DiskFault,
  work: () => Promise<Result>,
): Promise<{
  readonly ended: PromiseSettledResult<Result>;
  readonly calls: number;
  readonly failed: boolean;
}> {
  let calls = 0;
  let failed = false;
  /** Closing fails after it was done, as the kernel does it; all others before. */
  const failing = () => {
    calls += 1;
    if (calls !== nth) return;
    failed = true;
    const text = code === 'EIO' ? 'i/o error' : 'no space left on device';
    throw Object.assign(new Error(`${code}: ${text}, ${call}`), { code, errno: -5, syscall: call });
  };
  const around = (original: AnyFunction): AnyFunction =>
    function failingCall(this: unknown, ...args: unknown[]) {
      if (call !== 'close') failing();
      const result = original.apply(this, args);
      if (call !== 'close') return result;
      if (!(result instanceof Promise)) return failing();
      return result.then(failing);
    };
  const inFull = (original: AnyFunction): AnyFunction =>
    async function failingMethod(this: unknown, ...args: unknown[]) {
      return around(original).apply(this, args);
    };
  const closing = (original: AnyFunction): AnyFunction =>
    async function opening(this: unknown, ...args: unknown[]) {
      const handle = (await original.apply(this, args)) as Functions;
      handle['close'] = inFull(handle['close'] as AnyFunction);
      return handle;
    };

  const handles = await prototypeOfHandles();
  const [sync, promises] = [fs, fs.promises] as unknown as [Functions, Functions];
  const places: [Functions, string, (original: AnyFunction) => AnyFunction][] = {
    fsync: [[handles, 'sync', inFull] as const, [sync, 'fsyncSync', around] as const],
    rename: [[promises, 'rename', inFull] as const, [sync, 'renameSync', around] as const],
    link: [[promises, 'link', inFull] as const, [sync, 'linkSync', around] as const],
    write: [
      [handles, 'write', inFull] as const,
      [handles, 'writeFile', inFull] as const,
      [sync, 'writeSync', around] as const,
    ],
    // A handle has its own.
    close: [[promises, 'open', closing] as const, [sync, 'closeSync', around] as const],
  }[call].map(([where, name, wrap]) => [where, name, wrap]);
  const originals = places.map(([where, name]) => where[name]);
  for (const [where, name, wrap] of places) where[name] = wrap(where[name] as AnyFunction);
  syncBuiltinESMExports();
  try {
    const [ended] = await Promise.allSettled([work()]);
    return { ended: ended as PromiseSettledResult<Result>, calls, failed };
  } finally {
    for (const [index, [where, name]] of places.entries()) where[name] = originals[index] as AnyFunction;
    syncBuiltinESMExports();
  }
}

async function prototypeOfHandles(): Promise<Functions> {
  const handle: FileHandle = await open('/dev/null', 'r');
  await handle.close();
  return Object.getPrototypeOf(handle) as Functions;
}
