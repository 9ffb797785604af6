/**
 * Runs one command line. PostgreSQL waits for `wal-push` and `wal-fetch`, thousands of times a day: they, and the drop-ins
 * for barman-cloud, load nothing of the other commands.
 */
async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === 'wal-push') return (await import('./wal-push.ts')).walPushMain(rest);
  if (name === 'wal-fetch') return (await import('./wal-fetch.ts')).walFetchMain(rest);
  // what scripts/walkeep-cloud-wal-archive and -restore start
  if (name === 'cloud-wal-archive') return (await import('./cloud-wal-archive.ts')).cloudWalArchiveMain(rest);
  if (name === 'cloud-wal-restore') return (await import('./cloud-wal-restore.ts')).cloudWalRestoreMain(rest);
  return (await import('./program.ts')).runProgram(argv);
}

const code = await main(process.argv.slice(2));
// Connections of libraries may still be open; what had to be finished was awaited.
process.stdout.write('', () => process.exit(code));
