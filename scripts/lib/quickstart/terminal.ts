/** What the quickstart prints: headings, commands with the beginning of what they answer, and sentences. */

const hasColour = process.stdout.isTTY && process.env['NO_COLOR'] === undefined;
const styled = (code: number) => (text: string) => (hasColour ? `\x1b[${code}m${text}\x1b[0m` : text);
const bold = styled(1);
const dim = styled(2);
const cyan = styled(36);

/** A numbered heading. */
export function heading(text: string): void {
  process.stdout.write(`\n${bold(text)}\n`);
}

/** A sentence or two for the reader. */
export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** A command, as the reader can type it. */
export function prompt(line: string): void {
  process.stdout.write(`\n  ${cyan('$')} ${bold(line.replaceAll('\n', '\n    '))}\n`);
}

/** One line of a command's output. */
export function answer(line: string): void {
  process.stdout.write(line === '' ? '\n' : `    ${line}\n`);
}

/** A remark on what was printed, such as how much was left out, or how long something took. */
export function remark(text: string): void {
  process.stdout.write(`    ${dim(text)}\n`);
}

/** `850 ms` as `0.9 s`. */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
