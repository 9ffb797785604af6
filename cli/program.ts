import { Command, CommanderError } from 'commander';
import { EXIT } from './exit-codes.ts';
import { reportFailure } from './output.ts';
import { walkeepVersion } from '../repository/walkeep-version.ts';

interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  /** Loads the command's file only when it is the one that was asked for: starting fast matters to scripts. */
  readonly load: () => Promise<Command>;
}

/** Every command of `walkeep`, in the order `--help` lists them. */
const COMMANDS: readonly CommandEntry[] = [
  {
    name: 'apply',
    summary: 'make the manifests in files, directories or standard input true',
    load: async () => (await import('./apply.ts')).applyCommand(),
  },
  {
    name: 'delete',
    summary: 'take back a ScheduledBackup, ScheduledVerification, BackupPolicy or Cluster',
    load: async () => (await import('./delete.ts')).deleteCommand(),
  },
  {
    name: 'get',
    summary: 'list clusters, backups, schedules or verifications',
    load: async () => (await import('./get.ts')).getCommand(),
  },
  {
    name: 'describe',
    summary: 'show one backup with all that is known of it',
    load: async () => (await import('./describe.ts')).describeCommand(),
  },
  {
    name: 'backup',
    summary: 'take a base backup of a cluster now',
    load: async () => (await import('./backup.ts')).backupCommand(),
  },
  {
    name: 'pause',
    summary: 'hold a running backup',
    load: async () => (await import('./control.ts')).pauseCommand(),
  },
  {
    name: 'resume',
    summary: 'let a paused backup go on',
    load: async () => (await import('./control.ts')).resumeCommand(),
  },
  {
    name: 'throttle',
    summary: 'give a running backup another rate',
    load: async () => (await import('./control.ts')).throttleCommand(),
  },
  {
    name: 'cancel',
    summary: 'end a running backup',
    load: async () => (await import('./control.ts')).cancelCommand(),
  },
  {
    name: 'restore',
    summary: 'restore a cluster to any archived moment, from the repository alone',
    load: async () => (await import('./restore.ts')).restoreCommand(),
  },
  {
    name: 'sweep',
    summary: 'delete the backups and WAL that no rule keeps; --dry-run shows what and why',
    load: async () => (await import('./sweep.ts')).sweepCommand(),
  },
  {
    name: 'keep',
    summary: 'keep a backup from every retention, until it is released',
    load: async () => (await import('./keep.ts')).keepCommand(),
  },
  {
    name: 'release',
    summary: 'take a keep back: retention decides again',
    load: async () => (await import('./keep.ts')).releaseCommand(),
  },
  {
    name: 'verify',
    summary: 'prove a backup by restoring it',
    load: async () => (await import('./verify.ts')).verifyCommand(),
  },
  {
    name: 'status',
    summary: 'what protects a cluster at this moment',
    load: async () => (await import('./status.ts')).statusCommand(),
  },
  {
    name: 'check',
    summary: 'check, item by item, that a cluster is protected, and say what to do',
    load: async () => (await import('./check.ts')).checkCommand(),
  },
  {
    name: 'audit',
    summary: 'what of the archive can be restored to, and what is missing or damaged',
    load: async () => (await import('./audit.ts')).auditCommand(),
  },
  {
    name: 'repository',
    summary: 'check a repository, list what lies in it, or show what it is',
    load: async () => (await import('./repository.ts')).repositoryCommand(),
  },
  {
    name: 'logs',
    summary: "what a cluster's workflows have done",
    load: async () => (await import('./logs.ts')).logsCommand(),
  },
  {
    name: 'create',
    summary: 'create a secret on this host',
    load: async () => (await import('./create.ts')).createCommand(),
  },
  {
    name: 'worker',
    summary: 'run the worker next to a PostgreSQL',
    load: async () => (await import('./worker.ts')).workerCommand(),
  },
  {
    name: 'dev',
    summary: 'run an embedded Temporal server with its Web UI, for trying things out',
    load: async () => (await import('./dev.ts')).devCommand(),
  },
  {
    name: 'codec-server',
    summary: 'show encrypted payloads to the Temporal command line and Web UI',
    load: async () => (await import('./codec-server.ts')).codecServerCommand(),
  },
  {
    name: 'archive-command',
    summary: "print PostgreSQL's archive_command for this host",
    load: async () => (await import('./archive-command.ts')).archiveCommandCommand(),
  },
  {
    name: 'restore-command',
    summary: "print PostgreSQL's restore_command for this host",
    load: async () => (await import('./restore-command.ts')).restoreCommandCommand(),
  },
  {
    name: 'wal-push',
    summary: 'archive one WAL file (what archive_command calls)',
    load: async () => new Command('wal-push'),
  },
  {
    name: 'wal-fetch',
    summary: 'fetch one WAL file (what restore_command calls)',
    load: async () => new Command('wal-fetch'),
  },
];

const FOOTER = `
Examples:
  walkeep apply -f production.yaml            make a manifest true
  walkeep backup production-postgres --wait   take a base backup now
  walkeep get backups                         what can be restored
  walkeep restore production-postgres --target-directory /srv/restored \\
      --target-time '2026-11-24 09:30:00+00'  a database as it was then

Manifests are CloudNativePG's (Cluster, Backup, ScheduledBackup) and walkeep's own. Temporal is found by its own
environment (TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_PROFILE, temporal.toml). Exit codes: docs/cli.md.`;

/** A wrong word is 2 in commands of a command, too: they were there before their parent was told. */
function withExitCodes(command: Command): Command {
  for (const inner of command.commands) withExitCodes(inner);
  return command.exitOverride();
}

/** Runs one command line other than `wal-push` and `wal-fetch`. @returns the exit code */
export async function runProgram(argv: readonly string[]): Promise<number> {
  const [name] = argv;
  const program = new Command('walkeep')
    .description("PostgreSQL backups that can't get lost half-way and are proven by restoring them.")
    .version(walkeepVersion(), '-V, --version')
    .helpOption('-h, --help')
    .addHelpText('after', FOOTER)
    .showSuggestionAfterError()
    .exitOverride();
  for (const entry of COMMANDS) {
    const command = entry.name === name ? await entry.load() : new Command(entry.name);
    program.addCommand(withExitCodes(command.description(command.description() || entry.summary)));
  }
  try {
    if (argv.length === 0) {
      program.outputHelp();
      return EXIT.usage;
    }
    await program.parseAsync(argv, { from: 'user' });
    return typeof process.exitCode === 'number' ? process.exitCode : EXIT.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    return reportFailure(error);
  }
}
