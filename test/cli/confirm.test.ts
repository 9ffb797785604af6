import { PassThrough } from 'node:stream';
import { afterEach, expect, it, vi } from 'vitest';
import { requireYes } from '../../cli/confirm.ts';

const QUESTION = { what: 'it is deleted', unasked: 'u', hint: 'h', declined: 'nothing was changed' };

afterEach(() => {
  vi.restoreAllMocks();
});

/** Answers like a person at a terminal; `undefined` is Ctrl-D, or a terminal that goes away. */
function answering(keys: string | undefined): Promise<void> {
  const stdin = Object.assign(new PassThrough(), { isTTY: true, setRawMode: () => stdin, fd: 0 });
  const stderr = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
  stderr.resume();
  vi.spyOn(process, 'stdin', 'get').mockReturnValue(stdin as unknown as typeof process.stdin);
  vi.spyOn(process, 'stderr', 'get').mockReturnValue(stderr as unknown as typeof process.stderr);
  const asked = requireYes(QUESTION, false);
  if (keys === undefined) stdin.end();
  else stdin.write(keys);
  return asked;
}

it.for([
  ['Ctrl-D', '\u0004'],
  ['Ctrl-C', '\u0003'],
  ['a terminal that goes away', undefined],
  ['n', 'n\r'],
  ['nothing', '\r'],
] as const)('%s is no yes: nothing was changed, and that is said', async ([, keys]) => {
  await expect(answering(keys)).rejects.toMatchObject({ code: 'usage', message: 'nothing was changed' });
});

it('y goes on', async () => {
  await expect(answering('y\r')).resolves.toBeUndefined();
});
