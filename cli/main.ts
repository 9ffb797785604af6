/**
 * Runs one command line. PostgreSQL waits for `wal-push` and `wal-fetch`, thousands of times a day: they load nothing of
 * the other commands.
 */
async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === 'wal-push') return (await import('./wal-push.ts')).walPushMain(rest);
  if (name === 'wal-fetch') return (await import('./wal-fetch.ts')).walFetchMain(rest);
  return (await import('./program.ts')).runProgram(argv);
}

const code = await main(process.argv.slice(2));
// Connections of libraries may still be open; what had to be finished was awaited.
process.stdout.write('', () => process.exit(code));
