import { execFileSync, spawnSync } from 'node:child_process';

/**
 * Whether a program that a test compares with is here. Where it is not, the tests that need it are skipped, and it
 * is said; in CI that is a failure.
 */
export function hasProgram(program: string): boolean {
  const isHere = spawnSync(program, ['--version'], { stdio: 'ignore' }).error === undefined;
  if (!isHere) {
    if (process.env['CI'])
      throw new Error(`CI has no ${program}; the comparison with it is part of the tests`);
    console.warn(`skipped: no ${program} here to compare with`);
  }
  return isHere;
}

/** Runs `program`, in `cwd` if given, and gives its output. */
export function output(
  program: string,
  args: readonly string[],
  options: { cwd?: string; input?: string } = {},
): string {
  const env = { ...process.env, LC_ALL: 'C.UTF-8', TZ: 'UTC' };
  return execFileSync(program, args, { ...options, encoding: 'utf8', env, maxBuffer: 64 * 1024 * 1024 });
}
