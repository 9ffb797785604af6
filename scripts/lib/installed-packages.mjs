// Exits with 0 when node_modules holds what package-lock.json says, so that the set-up can leave it alone. With `required`
// as its second argument binaries for this platform, which npm may leave out, are not looked at.
// Plain JavaScript: it runs on the host's Node, before ours is there.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = process.argv[2] ?? '.';

function packagesOf(file) {
  try {
    return JSON.parse(readFileSync(join(root, file), 'utf8')).packages;
  } catch {
    return undefined;
  }
}

const wanted = packagesOf('package-lock.json');
// npm's own record of what it installed, written when an installation is complete.
const installed = packagesOf('node_modules/.package-lock.json');
if (!wanted || !installed) process.exit(1);

const isMusl = !process.report?.getReport().header.glibcVersionRuntime && process.platform === 'linux';

/** Binaries come as optional packages, one for each platform. */
function isForHere({ os, cpu, libc }) {
  return (
    os?.includes(process.platform) &&
    cpu?.includes(process.arch) &&
    (libc === undefined || libc.includes(isMusl ? 'musl' : 'glibc'))
  );
}

for (const [path, entry] of Object.entries(wanted)) {
  if (path === '' || (entry.optional && (process.argv[3] === 'required' || !isForHere(entry)))) continue;
  if (installed[path]?.version !== entry.version) process.exit(1);
}
