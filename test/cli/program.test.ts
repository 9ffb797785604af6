import { expect, it, vi } from 'vitest';
import { runProgram } from '../../cli/program.ts';

it.for([
  ['get', '--nonsense'],
  ['get', 'backups', '--nonsense'],
  ['get', 'backups', '-o', 'nonsense'],
  ['create', 'secret', 'generic'],
  ['repository', 'ls', 'shop', '-o', 'yaml'],
])('a wrong command line is 2, in commands of a command too: %j', async (argv) => {
  const stderr = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  try {
    expect(await runProgram(argv)).toBe(2);
    expect(stderr).toHaveBeenCalled();
  } finally {
    stderr.mockRestore();
  }
});
