//! The stack machine of the pickle format, as Python's `pickletools` describes its opcodes.
//!
//! Reads protocols 2 to 5, except for what plain data never needs: persistent ids, the extension registry, `INST`,
//! `OBJ`, `NEWOBJ_EX`, out-of-band buffers, and protocol 0's text opcodes.

use super::types::{built, called, global, new_object};
use super::{Id, MAX_INT, MAX_VALUES, Node, PickleError, Result};
use std::collections::HashMap;

/// Runs a pickle. Returns the values that it creates, and the id of its result.
pub(super) fn run(pickle: &[u8]) -> Result<(Vec<Node<'_>>, Id)> {
    let mut machine = Machine { input: pickle, at: 0, nodes: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
    let root = machine.run()?;
    Ok((machine.nodes, root))
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    /// `None` is the mark that delimits the items of a collection.
    stack: Vec<Option<Id>>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id> {
        if self.take(1)? != b"\x80" || !(2..=5).contains(&self.byte()?) {
            return Err(PickleError::Malformed("it does not begin with protocol 2 to 5"));
        }
        loop {
            let at = self.at;
            let node = match self.byte()? {
                b'.' => return self.stop(),
                b'N' => Node::None,
                0x88 => Node::Bool(true),
                0x89 => Node::Bool(false),
                b'K' => Node::Int(self.byte()?.into()),
                b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
                b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
                0x8a => self.int(1)?,
                0x8b => self.int(4)?,
                b'G' => Node::Float(f64::from_be_bytes(self.array()?)),
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                b'C' => Node::Bytes(self.counted(1)?),
                b'B' => Node::Bytes(self.counted(4)?),
                0x96 => Node::Bytes(self.counted(8)?),
                b'}' => Node::Dict(Vec::new()),
                b']' => Node::List(Vec::new()),
                0x8f => Node::Set(Vec::new()),
                b')' => Node::Tuple(Vec::new()),
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => Node::Tuple(self.marked()?),
                0x91 => Node::Set(self.marked()?),
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    global(module, name)?
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.nodes[module], &self.nodes[name]) {
                        (Node::Str(module), Node::Str(name)) => global(module, name)?,
                        _ => return Err(PickleError::Malformed("the name of a type is not a string")),
                    }
                }
                b'R' => {
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    called(&self.nodes, class, arguments)?
                }
                0x81 => {
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    new_object(&self.nodes, class, arguments)?
                }
                other => {
                    self.act(other, at)?;
                    continue;
                }
            };
            if self.nodes.len() == MAX_VALUES {
                return Err(PickleError::Limit("values"));
            }
            self.nodes.push(node);
            self.push(Some(self.nodes.len() - 1))?;
        }
    }

    /// Runs the opcodes that create no value themselves.
    fn act(&mut self, opcode: u8, at: usize) -> Result<()> {
        match opcode {
            // A frame is only a hint for reading from a stream; the opcodes inside work without it.
            0x95 => {
                let length = self.number(8)?;
                if length <= self.input.len() - self.at { Ok(()) } else { Err(self.truncated()) }
            }
            b'(' => self.push(None),
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(&items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.marked()?;
                self.set_items(&items)
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                self.nodes[object] = built(&self.nodes, object, state)?;
                Ok(())
            }
            0x94 => self.remember(self.memo.len()),
            b'q' | b'r' => {
                let index = self.number(if opcode == b'q' { 1 } else { 4 })?;
                self.remember(index)
            }
            b'h' | b'j' => {
                let index = self.number(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(index)
            }
            _ => Err(PickleError::Opcode { opcode, at }),
        }
    }

    fn stop(&mut self) -> Result<Id> {
        let root = self.pop()?;
        if self.stack.is_empty() && self.at == self.input.len() {
            Ok(root)
        } else {
            Err(PickleError::Malformed("the value is followed by more data"))
        }
    }

    fn truncated(&self) -> PickleError {
        PickleError::Truncated(self.input.len())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, _) = self.input[self.at..].split_at_checked(length).ok_or_else(|| self.truncated())?;
        self.at += length;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| self.truncated())
    }

    fn number(&mut self, width: usize) -> Result<usize> {
        let number = self.take(width)?.iter().rfold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).map_err(|_| self.truncated())
    }

    /// Reads bytes preceded by their count, which is itself `width` bytes long.
    fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let length = self.number(width)?;
        self.take(length)
    }

    fn text(&mut self, width: usize) -> Result<Node<'a>> {
        // Python encodes a lone surrogate like a character; neither JSON nor UTF-8 can represent it.
        let text = std::str::from_utf8(self.counted(width)?);
        text.map(Node::Str).map_err(|_| PickleError::Value("a string with a lone surrogate".into()))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.input[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| self.truncated())?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| PickleError::Malformed("the name of a type is not UTF-8"))
    }

    fn int(&mut self, width: usize) -> Result<Node<'a>> {
        let bytes = self.counted(width)?;
        if bytes.len() > MAX_INT {
            return Err(PickleError::Limit("digits of an integer"));
        }
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut word = [fill; 8];
        Ok(match word.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(word))
            }
            None => Node::Long(bytes),
        })
    }

    fn push(&mut self, slot: Option<Id>) -> Result<()> {
        if self.stack.len() == MAX_VALUES {
            return Err(PickleError::Limit("stack slots"));
        }
        self.stack.push(slot);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        self.stack.pop().flatten().ok_or(PickleError::Malformed("a value is missing from the stack"))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().flatten().ok_or(PickleError::Malformed("a value is missing from the stack"))
    }

    fn marked(&mut self) -> Result<Vec<Id>> {
        let mark = self.stack.iter().rposition(Option::is_none).ok_or(PickleError::Malformed("a mark is missing"))?;
        let items = self.stack.drain(mark..).flatten().collect();
        Ok(items)
    }

    fn tuple(&mut self, length: usize) -> Result<Node<'a>> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(Node::Tuple(items))
    }

    fn remember(&mut self, index: usize) -> Result<()> {
        if self.memo.len() == MAX_VALUES {
            return Err(PickleError::Limit("memo entries"));
        }
        self.memo.insert(index, self.top()?);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<()> {
        let id = *self.memo.get(&index).ok_or(PickleError::Malformed("it reads a memo entry that it did not write"))?;
        self.push(Some(id))
    }

    fn extend(&mut self, new: &[Id]) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target] {
            Node::List(items) | Node::Set(items) => items.extend_from_slice(new),
            _ => return Err(PickleError::Malformed("items are added to a value that is not a collection")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let target = self.top()?;
        match (&mut self.nodes[target], items.as_chunks()) {
            (Node::Dict(pairs), (new, [])) => pairs.extend(new.iter().map(|[key, value]| (*key, *value))),
            _ => return Err(PickleError::Malformed("items are set on a value that is not a dict")),
        }
        Ok(())
    }
}
